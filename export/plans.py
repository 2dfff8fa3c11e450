# SPDX-License-Identifier: Apache-2.0
"""What ``crispstream build`` does: choose library and GPU, build off the main thread, report."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from crispstream.engine.tensorrt import Library, check_supported, gpu_of, library
from crispstream.errors import EngineError, UsageError
from crispstream.manifest import PARTS, Manifest, load
from crispstream.plan import FLAVOURS, LIBRARY, Plan, Profile, Size

from .progress import Display
from .tensorrt import Build, known_targets

MEMORY = Path("/proc/meminfo")


def build_plans(
    preset: str | Path,
    ranges: Sequence[tuple[Size, Size, Size]],
    backend: str = "auto",
    target: str | None = None,
    device: str = "cuda",
    quiet: bool = False,
) -> dict[str, Any]:
    """Build the plans of ``preset`` (a name or a folder) for every smallest, best and largest frame size of ``ranges``.

    ``backend``: "tensorrt", "tensorrt-rtx" or "auto", the first of them that is installed. ``target``: compute
    capabilities such as "sm89" or "sm86+sm89", for TensorRT-RTX, which then needs no GPU; None: the GPU ``device``,
    "cuda" or "cuda:N". Progress goes to standard error unless ``quiet``. Returns what was built where; plain values.
    Raises UsageError, EngineError, OutputError; KeyboardInterrupt once a build that was interrupted has stopped.
    """
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise UsageError(f"unknown device '{device}'", "cuda or cuda:N")
    if target is not None and device != "cuda":
        raise UsageError(f"--target is for GPUs that are elsewhere, --device {device} is here", "give one of them")
    if target is not None and not re.fullmatch(r"sm\d+(\+sm\d+)*", target := target.lower()):
        raise UsageError(f"'{target}' names no GPUs", "compute capabilities, such as sm89 or sm86+sm89+sm120")
    targets = tuple(dict.fromkeys(target.split("+"))) if target else ()
    engine = load(preset)
    profiles = [_profile(engine, sizes) for sizes in ranges]
    found = _library(backend, targets)
    for one in targets:
        if not hasattr(found.trt.ComputeCapability, one.upper()):
            raise UsageError(f"{found} does not build for {one}", known_targets(found.trt))
    with ExitStack() as stack:
        display = stack.enter_context(Display(sys.stderr, quiet))
        if targets:
            executor = stack.enter_context(ThreadPoolExecutor(1))
            build, submit = Build(engine, found, targets, None, display), executor.submit
        else:
            worker = _worker(found, device)
            stack.callback(worker.close)
            gpu = gpu_of(worker.device)
            check_supported(found, gpu)
            place = gpu if found.flavour == "tensorrt" else (gpu.capability,)
            build, submit = Build(engine, found, place, worker.call(_free, worker.device), display), worker.post
        try:
            made = [submit(build.run, profile).result() for profile in profiles]
        except KeyboardInterrupt:
            build.stop.set()  # ends the build at TensorRT's next step; leaving the stack waits for that
            raise
    return {
        "preset": engine.preset,
        "backend": found.flavour,
        "version": found.version,
        "target": str(build.target) if not isinstance(build.target, tuple) else "+".join(build.target),
        "plans": [_entry(plan, reused) for plan, reused in made],
    }


def _profile(engine: Manifest, sizes: tuple[Size, Size, Size]) -> Profile:
    """Padded as frames will be."""

    def up(n: int) -> int:
        return -(-n // engine.multiple) * engine.multiple

    padded = [(up(width), up(height)) for width, height in sizes]
    for low, high in pairwise(padded):
        if low[0] > high[0] or low[1] > high[1]:
            raise UsageError("a range of sizes goes from the smallest over the best to the largest", "MIN:BEST:MAX")
    return Profile(*padded)


def _library(backend: str, targets: tuple[str, ...]) -> Library:
    if targets and backend == "tensorrt":
        raise UsageError("TensorRT builds on the GPU that the plans are for", "--target needs --backend tensorrt-rtx")
    flavours = [flavour for flavour in FLAVOURS if backend in ("auto", flavour)]
    if targets:
        flavours = ["tensorrt-rtx"]
    failures: list[EngineError] = []
    for flavour in flavours:
        try:
            return library(flavour)
        except EngineError as error:
            failures.append(error)
    raise EngineError("; ".join(map(str, failures)), "; ".join(failure.hint for failure in failures))


def _worker(found: Library, device: str) -> Any:
    from crispstream.cuda.worker import Worker

    try:
        return Worker(int(device.partition(":")[2] or 0))
    except EngineError as error:
        if found.flavour == "tensorrt":
            raise
        hint = f"{error.hint}; or build for a GPU that is elsewhere, as: --target sm89".removeprefix("; ")
        raise EngineError(f"{LIBRARY[found.flavour]} cannot use a GPU here: {error}", hint) from error


def _free(device: Any) -> int:
    """Free bytes. Memory that GPU and processor share is free if the system can do without it."""
    free = int(device.memory()[0])
    if device.integrated and MEMORY.exists():
        lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) << 10  # what caches hold counts; the driver leaves that out
    return free


def _entry(plan: Plan, reused: bool) -> dict[str, Any]:
    parts = {
        part: {
            "file": plan.parts[part].file,
            "bytes": (plan.folder / plan.parts[part].file).stat().st_size,
            "seconds": plan.parts[part].seconds,
            "workspace": plan.parts[part].workspace,
        }
        for part in PARTS
    }
    return {
        "size": str(plan.profile),
        "folder": str(plan.folder),
        "reused": reused,
        "features": plan.tensors["features0"].layout,
        "seconds": round(sum(part.seconds for part in plan.parts.values()), 3),
        "parts": parts,
    }
