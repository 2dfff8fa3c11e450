# SPDX-License-Identifier: Apache-2.0
"""Who writes an output right now, among the runs of one user on one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from crispstream.cache import cache_folder
from crispstream.errors import OutputError

# A lock file that keeps going away under us is none.
_TRIES = 100


class OutputLock:
    """Held from construction to ``release``, and let go by the system if the process dies.

    Its file lies in the user's cache, so nothing but outputs comes into the user's folders. Raises OutputError where
    another run holds it; where the cache cannot be written there is no lock.
    """

    def __init__(self, output: Path) -> None:
        name = hashlib.sha256(os.fsencode(os.path.realpath(output))).hexdigest()
        self._path = cache_folder() / "locks" / name
        self._file: IO[bytes] | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(_TRIES):
                self._file = self._path.open("ab")
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._lies_there():
                    break
                self._close()
        except BlockingIOError as error:
            self._close()
            raise OutputError(f"another run is writing {output}", "wait for it, or choose another output") from error
        except OSError:  # outputs appear whole all the same
            self._close()

    def release(self) -> None:
        """Let others write. Idempotent."""
        if self._file is not None:
            with suppress(OSError):
                if self._lies_there():
                    self._path.unlink()
            self._close()

    def _lies_there(self) -> bool:
        """Whether the file that is locked is the one that others find: its holder may have removed it in between."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
