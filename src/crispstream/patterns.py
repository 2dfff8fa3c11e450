# SPDX-License-Identifier: Apache-2.0
"""Picture files by pattern: ``in_%04d.png``, or the shell's ``shots/*.png`` where the shell was not let at it."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from crispstream.errors import InputError

_NUMBER = re.compile(r"%(0?)([0-9]{0,3})d")  # no name has a number of a thousand digits


def is_numbered(path: Path) -> bool:
    """Whether the name holds a place for a number, as in ``in_%04d.png``."""
    return len(_NUMBER.findall(path.name)) == 1


def is_pattern(path: Path) -> bool:
    """Whether the path means several files: no such file exists, and its name has ``%d`` or it has ``* ? [``."""
    return (is_numbered(path) or glob.has_magic(str(path))) and not os.path.exists(path)


def nth(pattern: Path, number: int) -> Path:
    """The path for a number."""
    return pattern.with_name(_NUMBER.sub(lambda m: f"{number:{m[1]}{m[2]}d}", pattern.name))


def matches(pattern: Path) -> dict[int, Path]:
    """The files of a numbered pattern by number, sorted."""
    before, _, width, after = _NUMBER.split(pattern.name)
    name = re.compile(rf"{re.escape(before)}(\d{{{width or 1},}}){re.escape(after)}")
    found = [(m, p) for p in _listed(pattern.parent) if (m := name.fullmatch(p.name))]
    return dict(sorted((int(m[1]), p) for m, p in found if nth(pattern, int(m[1])) == p))


def find_pictures(pattern: Path) -> tuple[dict[int, Path], list[str]]:
    """The pictures of a pattern by number (a glob's are counted from 1, sorted by name), and what is to be told.

    Raises InputError where there is none.
    """
    warnings = []
    if is_numbered(pattern):
        found = matches(pattern)
        missing = max(found, default=0) - min(found, default=0) + 1 - len(found)
        if found and missing:
            warnings.append(f"{missing} numbers between {min(found)} and {max(found)} have no picture")
    else:
        names = [] if "\0" in str(pattern) else glob.glob(str(pattern), recursive=True)  # glob does not bear a zero
        pictures = sorted(p for p in map(Path, names) if p.is_file())
        found = dict(enumerate(pictures, 1))
    if not found:
        raise InputError(f"no file matches {pattern}", "put it in quotes, and look at the folder and the suffix")
    return found, warnings


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if os.path.isdir(folder) else []
