# SPDX-License-Identifier: Apache-2.0
"""What a folder of outputs was made from, kept beside them, so that nothing is made twice."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crispstream.errors import OutputError

FILE_NAME = ".crispstream-job.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One output: sha256 of its input and of the settings, its own size and time, whether all of the input is in it."""

    input: str
    settings: str
    size: int
    mtime_ns: int
    complete: bool


class JobRecord:
    """The entries of the outputs in ``folder`` by name. A line of JSON is added for each that is finished; what cannot
    be understood is passed over, so the worst that a damaged record does is work done again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._entries: dict[str, Entry] = {}
        with suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    values = json.loads(line)
                    name = values.pop("output")
                    self._entries[name] = Entry(**values)

    def is_ours(self, target: Path) -> bool:
        """Whether the file ``target`` is the one that was recorded, untouched since."""
        entry = self._entries.get(target.name)
        try:
            found = target.stat()
        except OSError:
            return False
        return entry is not None and (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)

    def is_finished(self, target: Path, digest: str, settings: str) -> bool:
        """Whether ``target`` is ours, whole, and from the same input with the same settings."""
        entry = self._entries.get(target.name)
        same = entry is not None and entry.complete and (entry.input, entry.settings) == (digest, settings)
        return same and self.is_ours(target)

    def add(self, target: Path, digest: str, settings: str, complete: bool) -> None:
        """Write down a finished output. Raises OutputError."""
        try:
            found = target.stat()
            entry = Entry(digest, settings, found.st_size, found.st_mtime_ns, complete)
            line = json.dumps({"output": target.name, **asdict(entry)})
            with self._path.open("a+b") as file:
                # A line that was cut off by a crash must not spoil this one.
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                file.write(b"\n" * (file.read(1) not in (b"", b"\n")) + line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path} ({error.strerror})", "without it nothing is resumed"
            ) from error
        self._entries[target.name] = entry


def hash_file(path: Path) -> str:
    """sha256 of the bytes of ``path``, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_settings(settings: dict[str, Any]) -> str:
    """sha256 of what an output depends on beside its input, in hexadecimal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
