# SPDX-License-Identifier: Apache-2.0
"""An output file that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path

from crispstream.errors import OutputError
from crispstream.lock import OutputLock

SUFFIX = ".crispstream.part"
# Bytes of the output's name: a file name has 255 at most (NAME_MAX), 143 where names are encrypted (eCryptfs).
_KEPT = 100


def sweep(folder: Path) -> None:
    """Remove the temporary files in ``folder`` whose run was killed; those that are written right now stay."""
    with suppress(OSError):
        for left in [entry for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]:
            with suppress(OSError), open(left, "r+b", buffering=0, opener=_as_it_lies) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(left)


def _as_it_lies(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class PartialFile:
    """A temporary file beside ``path``: write to ``temporary``, then ``commit`` renames it, ``discard`` removes it.

    It is locked as long as its run lives, which is how ``sweep`` knows. Raises OutputError at once when ``path`` cannot
    be written, is being written by another run, or exists and ``overwrite`` is False. What is replaced leaves its
    permissions to what replaces it.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        # A symbolic link is followed, so that its target is replaced and not the link.
        self.path = Path(os.path.realpath(path))
        self._overwrite = overwrite
        self._check_target()
        if not os.path.isdir(self.path.parent):
            raise OutputError(f"the folder {self.path.parent} does not exist", f"mkdir -p '{self.path.parent}'")
        self._lock = OutputLock(self.path)
        try:
            # Trying is the only test that knows about read-only file systems, quotas and access lists.
            self._file = _create(self.path)
        except OSError as error:
            self._lock.release()
            raise OutputError(
                f"cannot write in {self.path.parent} ({error.strerror})", "choose another output folder"
            ) from error
        self.temporary = Path(os.fsdecode(self._file.name))
        self._take_mode(stat.S_IRUSR | stat.S_IWUSR)  # nobody may read meanwhile what may not be read afterwards

    def commit(self) -> None:
        """Flush to the disk and give the file its name. Raises OutputError; the temporary file is then gone too."""
        try:
            self._check_target()
            self._take_mode()
            os.fsync(self._file.fileno())
            self._rename()
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                with suppress(OSError):  # some network file systems cannot
                    os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self.discard()
            raise OutputError(f"cannot write {self.path} ({error.strerror})") from error
        except OutputError:
            self.discard()
            raise
        self._file.close()
        self._lock.release()

    def discard(self) -> None:
        """Remove the temporary file. Idempotent."""
        if not self._file.closed:
            self.temporary.unlink(missing_ok=True)
        self._file.close()
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

    def _take_mode(self, also: int = 0) -> None:
        """The permissions of the file that will be replaced, and the bits ``also``."""
        with suppress(OSError):  # nothing is replaced, or the file system knows no permissions
            os.fchmod(self._file.fileno(), os.stat(self.path).st_mode & 0o777 | also)

    def _check_target(self) -> None:
        if os.path.exists(self.path):  # False, too, for a name that is too long, which trying tells
            if not self.path.is_file():
                raise OutputError(f"{self.path} exists and is not a regular file")
            if not self._overwrite:
                raise OutputError(f"{self.path} exists", "use --overwrite to replace it")


def _create(path: Path) -> FileIO:
    """A new file beside ``path``, locked. Raises OSError."""
    stem = os.fsencode(path.name)[:_KEPT].decode("utf-8", "ignore")
    while True:
        file = FileIO(path.with_name(f".{stem}.{secrets.token_hex(4)}{SUFFIX}"), "x")
        with suppress(OSError):  # some network file systems know no locks: there nothing is swept
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):  # not swept between creation and lock
            return file
        file.close()
