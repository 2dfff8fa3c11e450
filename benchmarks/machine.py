# SPDX-License-Identifier: Apache-2.0
"""What a run's figures belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispstream import bench, cpu

TOPOLOGY = Path("/sys/devices/system/cpu")


def machine() -> dict[str, Any]:
    """Processor, threads, versions: plain values, nothing that names the computer or its user.

    ``siblings``: groups of hardware threads that share a core, as Linux tells it; a virtual machine (``virtual``) may
    call every hardware thread a core.
    """
    lists = TOPOLOGY.glob("cpu[0-9]*/topology/thread_siblings_list")
    return {
        **bench.machine(None),
        "siblings": sorted({path.read_text().strip() for path in lists}),
        "virtual": "hypervisor" in cpu.field("flags").split(),
    }
