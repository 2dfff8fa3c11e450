# SPDX-License-Identifier: Apache-2.0
"""Where the user's cache is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from crispstream.errors import OutputError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/crispstream`` (XDG Base Directory Specification, which ignores relative paths)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "crispstream"


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make ``files`` all that ``folder`` holds. Each appears whole, in their order, so that the last one may be
    what makes the others count; older ones go after it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
