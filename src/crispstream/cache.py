# SPDX-License-Identifier: Apache-2.0
"""Where the user's cache is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from crispstream.errors import OutputError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/crispstream`` (XDG Base Directory Specification, which ignores relative paths).

    For a user without a home, as in some containers, it is a place that holds nothing and takes nothing.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "crispstream"
    try:
        return Path.home() / ".cache" / "crispstream"
    except RuntimeError:
        return Path(os.devnull) / "crispstream"


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make ``files`` all that ``folder`` holds. Each appears whole, in their order, so that the last one may be
    what makes the others count; older ones go after it. One process at a time, others wait. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(f"{folder.name}.lock"), "ab") as lock:  # beside it: in there it would be cleared up
            with suppress(OSError):  # some network file systems know no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            for name, data in files.items():
                partial = folder / f"{name}.partial"
                partial.write_bytes(data)
                partial.replace(folder / name)
            for old in folder.iterdir():
                if old.name not in files:
                    old.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> OutputError:
    """What is said where the cache does not take a file."""
    return OutputError(f"cannot write {folder}: {error.strerror}", "set XDG_CACHE_HOME to a folder that can be written")
