# SPDX-License-Identifier: Apache-2.0
"""The self-check of a Jetson: JetPack, Python, power, clocks, memory. docs/jetson.md explains each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from crispstream.check import Check

MODEL = Path("/proc/device-tree/model")
RELEASE = Path("/etc/nv_tegra_release")
MEMINFO = Path("/proc/meminfo")
SWAPS = Path("/proc/swaps")
NVPMODEL = ("nvpmodel", "-q")
CLOCKS = ("jetson_clocks", "--show")
PYVENV = Path(sys.prefix) / "pyvenv.cfg"

JETPACKS = {36: ("JetPack 6", (3, 10)), 38: ("JetPack 7", (3, 12)), 39: ("JetPack 7", (3, 12))}
"""By the first number of Jetson Linux (L4T): the JetPack, and the Python that its TensorRT is for."""
BUILD_GIB = 12
"""Memory and swap below which a build may not get through: a rule of thumb, not measured."""


def is_jetson() -> bool:
    """True on a Jetson; a container sees the same."""
    return RELEASE.exists() or "Jetson" in _text(MODEL)


def jetson_checks(python: tuple[int, int] = sys.version_info[:2]) -> list[Check]:
    """What a Jetson needs beyond other machines; nothing elsewhere."""
    if not is_jetson():
        return []
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(RELEASE))
    board = _text(MODEL).strip("\0 \n") or "Jetson"
    if release is None:
        checks = [Check("Jetson", "ok", f"{board}; its JetPack is not told here (a container?)")]
    elif int(release[1]) not in JETPACKS:
        hint = "JetPack 6 or 7 is needed: docs/jetson.md"
        checks = [Check("Jetson", "broken", f"{board} with Jetson Linux {release[1]}.{release[2]}", hint)]
    else:
        jetpack, wanted = JETPACKS[int(release[1])]
        board = f"{board}, {jetpack} (Jetson Linux {release[1]}.{release[2]})"
        checks = [Check("Jetson", "ok", board), _python(jetpack, wanted, python)]
    return [*checks, _power(), _clocks(), _memory()]


def _python(jetpack: str, wanted: tuple[int, int], python: tuple[int, int]) -> Check:
    """TensorRT's module belongs to the system's Python, and an environment sees it only when told to."""
    here, there = "{}.{}".format(*python), "{}.{}".format(*wanted)
    make = f"type: /usr/bin/python{there} -m venv --system-site-packages .venv, and install again"
    if python != wanted:
        return Check("Jetson's Python", "broken", f"{here}, but {jetpack}'s TensorRT is for {there}", make)
    settings = _text(PYVENV)
    if settings and not re.search(r"include-system-site-packages\s*=\s*true", settings):
        return Check("Jetson's Python", "broken", "this environment does not see the system's TensorRT", make)
    return Check("Jetson's Python", "ok", here)


def _power() -> Check:
    found = re.search(r"NV Power Mode:\s*(.+)", _output(NVPMODEL))
    if found is None:
        return Check("Jetson's power mode", "ok", "not told to this user", f"type: sudo {' '.join(NVPMODEL)}")
    mode = found[1].strip()
    hint = "" if mode.startswith("MAXN") else "faster: grep POWER_MODEL /etc/nvpmodel.conf; sudo nvpmodel -m NUMBER"
    return Check("Jetson's power mode", "ok", mode, hint)


def _clocks() -> Check:
    found = re.search(r"GPU\s+MinFreq=(\d+)\s+MaxFreq=(\d+)", _output(CLOCKS))
    if found is None:
        return Check("Jetson's clocks", "ok", "not told to this user", f"type: sudo {' '.join(CLOCKS)}")
    low, high = int(found[1]) // 10**6, int(found[2]) // 10**6
    if low == high:
        return Check("Jetson's clocks", "ok", f"GPU held at {high} MHz")
    return Check("Jetson's clocks", "ok", f"GPU follows the load, {low} to {high} MHz", "steady: sudo jetson_clocks")


def _memory() -> Check:
    """Memory and swap on a disk; zram, compressed in the same memory, does not help a build."""
    total = int(_number(r"MemTotal:\s+(\d+) kB", _text(MEMINFO)))
    swap = sum(int(line.split()[2]) for line in _text(SWAPS).splitlines()[1:] if "zram" not in line)
    detail = f"{total / 2**20:.1f} GiB, {swap / 2**20:.1f} GiB of swap on a disk"
    enough = total + swap >= BUILD_GIB * 2**20
    hint = "" if enough else "builds may run out of memory: docs/jetson.md shows how to add 8 GB of swap"
    return Check("Jetson's memory", "ok", detail, hint)


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "0"


def _output(command: tuple[str, ...]) -> str:
    """What a command prints, "" where it is not there or fails: both want root on some boards."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
