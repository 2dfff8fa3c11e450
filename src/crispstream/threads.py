# SPDX-License-Identifier: Apache-2.0
"""How many threads this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath


@cache
def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that affinity and the control group's quota leave to this process; at least 1. Measured once.

    A container with a quota of two cores on a 64-core host gets 2, where ``os.cpu_count()`` says 64. Counts the
    process's own group and every parent: ``cpu.max`` (cgroup v2), ``cpu.cfs_quota_us`` (v1). Part of a core is left.
    """
    limit = float(len(os.sched_getaffinity(0)))
    for quota, period in _quotas(cgroup, membership):
        limit = min(limit, quota / period)
    return max(1, int(limit))


def _quotas(cgroup: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """(quota, period) of every group that limits this process, in microseconds."""
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        # A container often sees its own group as the root of the mount, so a path that is not there is passed over.
        path = PurePosixPath(group.lstrip("/"))
        for parent in (path, *path.parents):
            if not controllers:
                words = _text(cgroup / parent / "cpu.max").split()
            elif "cpu" in controllers.split(","):
                folder = cgroup / "cpu" / parent
                words = [*_text(folder / "cpu.cfs_quota_us").split(), *_text(folder / "cpu.cfs_period_us").split()]
            else:
                break
            # No limit is "max" in v2 and -1 in v1.
            if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
                yield int(words[0]), int(words[1])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
