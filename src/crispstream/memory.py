# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may really use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from crispstream.cgroup import CGROUP, MEMBERSHIP, groups, text


@cache
def memory_size(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Bytes that the machine has, or fewer where a control group allows no more. Measured once.

    Counts the process's own group and every parent: ``memory.max`` (cgroup v2), ``memory.limit_in_bytes`` (v1).
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for version, folder in groups("memory", cgroup, membership):
        limit = text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if limit.isdigit():  # no limit is "max" in v2 and a number beyond all memory in v1
            limits.append(int(limit))
    return min(limits)
