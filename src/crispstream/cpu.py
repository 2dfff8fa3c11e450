# SPDX-License-Identifier: Apache-2.0
"""Which processor this is, as Linux tells it."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Four products of 8-bit numbers added up in one step: VNNI on x86-64, the dot product on AArch64."""


def model() -> str:
    """The processor's name; where Linux gives none (AArch64), architecture and part number."""
    return field("model name") or " ".join(filter(None, (platform.machine(), field("CPU part"))))


def int8_instructions() -> tuple[str, ...]:
    """Those of INT8_INSTRUCTIONS that the processor has."""
    known = {*field("flags").split(), *field("Features").split()}
    return tuple(name for name in INT8_INSTRUCTIONS if name in known)


def field(key: str) -> str:
    """What /proc/cpuinfo says of the first processor; "" where there is no such field."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""
