# SPDX-License-Identifier: Apache-2.0
"""The folder that a demo writes into: nothing that a demo did not make is replaced there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from crispstream.errors import OutputError, UsageError
from crispstream.record import JobRecord
from crispstream.sinks.partial import PartialFile


class DemoFolder:
    """``folder``, made if it is not there. Files that a demo made and nobody touched since may be replaced, others only
    with ``overwrite``; which they are is in the folder's ``JobRecord``.

    ``names``: of the files that will be written. Raises, before anything is done, UsageError where one of them is
    ``source``, OutputError where one may not be replaced or the folder cannot be made.
    """

    def __init__(
        self, folder: str | os.PathLike[str], names: Iterable[str], source: Path | None, overwrite: bool
    ) -> None:
        self._folder = Path(folder)
        self._overwrite = overwrite
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder} ({error.strerror})") from error
        self._record = JobRecord(self._folder)
        for path in map(self.path, names):
            if source is not None and path.exists() and path.samefile(source):
                raise UsageError(f"the demo would replace its input {source}", "choose another folder: --output FOLDER")
            if path.exists() and not self.may_replace(path.name):
                raise OutputError(
                    f"{path} exists, and no demo made it",
                    "choose another folder: --output FOLDER, or --overwrite to replace it",
                )

    def path(self, name: str) -> Path:
        """Where the file ``name`` lies."""
        return self._folder / name

    def may_replace(self, name: str) -> bool:
        """Whether what lies there now may go."""
        return self._overwrite or self._record.is_ours(self.path(name))

    def made(self, name: str) -> str:
        """Remember a finished file as a demo's; returns its path. Raises OutputError."""
        self._record.add(self.path(name), digest="demo", settings="demo", complete=True)
        return str(self.path(name))

    def save(self, picture: Image.Image, name: str) -> str:
        """Write a picture as PNG, whole or not at all; returns its path. Raises OutputError."""
        file = PartialFile(self.path(name), self.may_replace(name))
        try:
            picture.save(file.temporary, "PNG")
            file.commit()
        except OSError as error:
            raise OutputError(f"cannot write {self.path(name)} ({error.strerror or error})") from error
        finally:
            file.discard()
        return self.made(name)
