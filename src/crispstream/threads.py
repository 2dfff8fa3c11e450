# SPDX-License-Identifier: Apache-2.0
"""How many threads this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from crispstream.cgroup import CGROUP, MEMBERSHIP, groups, text


@cache
def cpu_quota(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
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
    for version, folder in groups("cpu", cgroup, membership):
        files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = " ".join(text(folder / name) for name in files).split()
        # No limit is "max" in v2 and -1 in v1.
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            yield int(words[0]), int(words[1])
