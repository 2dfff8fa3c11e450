# SPDX-License-Identifier: Apache-2.0
"""Names of files that are written one after the other for weeks: by time, by number, never one twice."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from crispstream.errors import UsageError
from crispstream.patterns import is_numbered, matches, nth

# "%d" alone is strftime's day of the month; with a width it is a number.
_NUMBER = re.compile(r"%0?[1-9][0-9]?d")
_TIME = re.compile(r"%[-_0^#]?[a-zA-Z]")

# What a film may not replace, not even one of a sink that was made anew after an error.
_kept: set[str] = set()


def has_place(path: Path) -> bool:
    """Whether the path holds places for a time (``cam-%H%M%S.mkv``) or a number (``out-%04d.mkv``)."""
    return bool(_TIME.search(_NUMBER.sub("", str(path))) or _NUMBER.search(path.name))


def keep(path: Path) -> None:
    """From now on no ``Names`` of this process gives this name, not even with ``overwrite``."""
    _kept.add(os.path.realpath(path))


def is_kept(path: Path) -> bool:
    """Whether ``keep`` was told so."""
    return os.path.realpath(path) in _kept


class Names:
    """Names after ``path``: ``strftime`` places are filled in, ``%04d`` counts on from the numbers that exist.

    A path without places stands for itself, or with ``series`` for ``path-0001.mkv`` and so on. A name that is taken
    gets such a number too; with ``overwrite`` only those that are kept count as taken: what this process has finished.
    Raises UsageError where a path has places for a time and a number.
    """

    def __init__(self, path: Path, *, series: bool = False, overwrite: bool = False) -> None:
        numbered = _NUMBER.search(path.name) is not None
        if numbered and (not is_numbered(path) or _TIME.search(_NUMBER.sub("", str(path)))):
            raise UsageError(f"{path} has places for more than one number or time", "use %Y%m%d-%H%M%S or %04d")
        self._timed = not numbered and has_place(path)
        self._numbered = path if numbered else _with_number(path) if series and not self._timed else None
        self._path = path
        self._overwrite = overwrite
        self._last = 0

    def next(self, wall: float) -> Path:
        """A free name for what begins at ``wall``, seconds since 1970; the last folder of a timed path is made."""
        if self._numbered is not None:
            if not self._last and not self._overwrite:
                self._last = max(matches(self._numbered), default=0)
            while not self._free(path := nth(self._numbered, self._last + 1)):
                self._last += 1
            return path
        path = Path(time.strftime(str(self._path), time.localtime(wall))) if self._timed else self._path
        if self._timed and _TIME.search(str(self._path.parent)):
            with suppress(OSError):  # told by whoever writes there
                path.parent.mkdir(exist_ok=True)
        number, again = 0, path
        while not self._free(again):
            number += 1
            again = path.with_name(f"{path.stem}-{number:04d}{path.suffix}")
        return again

    def finished(self, path: Path) -> None:
        """Remember that this file is whole."""
        if self._overwrite:  # nothing else replaces files
            keep(path)

    def _free(self, path: Path) -> bool:
        return not path.exists() or (self._overwrite and not is_kept(path))


def _with_number(path: Path) -> Path:
    # A per cent sign that is no place would be one beside the number.
    return path.with_name(f"{path.stem}-%04d{path.suffix}")
