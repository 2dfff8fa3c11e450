# SPDX-License-Identifier: Apache-2.0
"""How many threads this process may really use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that affinity and the control group's quota leave to this process; at least 1.

    A container with a quota of two cores on a 64-core host gets 2, where ``os.cpu_count()`` says 64. Reads
    ``cpu.max`` (cgroup v2: this process's group and every parent) or ``cpu.cfs_quota_us`` (v1). Measured once.
    """
    limit = float(len(os.sched_getaffinity(0)))
    for quota, period in _quotas(cgroup, membership):
        limit = min(limit, quota / period)
    return max(1, int(limit))


def _quotas(cgroup: Path, membership: Path) -> list[tuple[int, int]]:
    group = Path()
    for line in _words(membership):
        if line.startswith("0::/"):
            group = Path(line[4:])
    found = [_words(cgroup / parent / "cpu.max") for parent in (group, *group.parents)]
    v1 = cgroup / "cpu"
    found.append([*_words(v1 / "cpu.cfs_quota_us"), *_words(v1 / "cpu.cfs_period_us")])
    return [(int(w[0]), int(w[1])) for w in found if len(w) == 2 and w[0].isdigit() and int(w[1]) > 0]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
