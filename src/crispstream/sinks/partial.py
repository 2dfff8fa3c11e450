# SPDX-License-Identifier: Apache-2.0
"""An output file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from crispstream.errors import OutputError
from crispstream.lock import OutputLock


class PartialFile:
    """A temporary name beside ``path``: write to ``temporary``, then ``commit`` renames it, ``discard`` removes it.

    Raises OutputError at once when ``path`` cannot be written, is being written by another run, or exists and
    ``overwrite`` is False.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        # A symbolic link is followed, so that its target is replaced and not the link.
        self.path = Path(os.path.realpath(path))
        self._overwrite = overwrite
        self.temporary = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.part")
        self._check_target()
        if not self.path.parent.is_dir():
            raise OutputError(f"the folder {self.path.parent} does not exist", f"mkdir -p '{self.path.parent}'")
        try:
            # Trying is the only test that knows about read-only file systems, quotas and access lists.
            os.close(os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            self.temporary.unlink()
        except OSError as error:
            raise OutputError(
                f"cannot write in {self.path.parent} ({error.strerror})", "choose another output folder"
            ) from error
        self._lock = OutputLock(self.path)

    def commit(self) -> None:
        """Flush to the disk and give the file its name. Raises OutputError; the temporary file is then gone too."""
        try:
            self._check_target()
            with open(self.temporary, "rb") as file:
                os.fsync(file.fileno())
            self._rename()
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                with contextlib.suppress(OSError):  # some network file systems cannot
                    os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self.discard()
            raise OutputError(f"cannot write {self.path} ({error.strerror})") from error
        except OutputError:
            self.discard()
            raise
        self._lock.release()

    def discard(self) -> None:
        """Remove the temporary file. Idempotent."""
        self.temporary.unlink(missing_ok=True)
        self._lock.release()

    def _rename(self) -> None:
        if not self._overwrite:
            try:
                os.link(self.temporary, self.path)  # unlike a rename it never replaces what came in the meantime
            except FileExistsError:
                self._check_target()
            except OSError:  # a file system without hard links
                pass
            else:
                self.temporary.unlink()
                return
        os.replace(self.temporary, self.path)

    def _check_target(self) -> None:
        if self.path.exists():
            if not self.path.is_file():
                raise OutputError(f"{self.path} exists and is not a regular file")
            if not self._overwrite:
                raise OutputError(f"{self.path} exists", "use --overwrite to replace it")
