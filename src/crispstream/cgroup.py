# SPDX-License-Identifier: Apache-2.0
"""The control groups that limit this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def groups(controller: str, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> Iterator[tuple[int, Path]]:
    """(version, folder) of the process's own group and of every parent, for a controller such as "cpu".

    Not every folder is there: a container often sees its own group as the root of the mount.
    """
    for line in text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        path = PurePosixPath(group.lstrip("/"))
        for parent in (path, *path.parents):
            if not controllers:
                yield 2, cgroup / parent
            elif controller in controllers.split(","):
                yield 1, cgroup / controller / parent


def text(file: Path) -> str:
    """What a file holds; nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
