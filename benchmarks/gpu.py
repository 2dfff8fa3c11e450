# SPDX-License-Identifier: Apache-2.0
"""Everything that only a GPU can tell, in one run: ``python benchmarks/gpu.py``.

Writes ``benchmarks/results/<gpu>.json``: the card's copy bandwidth, every kernel as a fraction of it, and for every
engine, preset and size the latency, the throughput, what the graph saves and what the host spends on launching.
Plans that are missing are named, with the command that builds them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from gpu_kernels import card, kernel_figures

from crispstream import Deblurrer, Frame, PixelFormat
from crispstream.cuda.driver import load
from crispstream.cuda.worker import Worker
from crispstream.errors import CrispStreamError
from crispstream.gating import Decision
from crispstream.manifest import available_presets
from crispstream.runners.gpu import GpuRunner
from crispstream.runners.lane import VARIANTS, Lane

BACKENDS = ("tensorrt", "tensorrt-rtx", "torch")
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "2160p": (3840, 2160)}
FRAMES = 300
WARM_UP = 30
PERCENTILES = (50, 95, 99, 100)


def main() -> int:
    """Measure, write the file, print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--presets", nargs="*", default=available_presets())
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of each measurement")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    worker = Worker(options.device)
    try:
        found: dict[str, Any] = {"card": worker.call(card, worker.device), "kernels": {}, "engines": []}
        found["card"]["pycuda"] = load().get_version()
        for name in options.sizes:
            for pixel_format in (PixelFormat.BGR24, PixelFormat.NV12):
                figures = worker.call(kernel_figures, worker.device, SIZES[name], pixel_format)
                found["kernels"][f"{name} {pixel_format.name}"] = figures
                _say(f"{name} {pixel_format.name}", figures)
    finally:
        worker.close()
    for backend in BACKENDS:
        for preset in options.presets:
            for name in options.sizes:
                entry = {"backend": backend, "preset": preset, "size": name}
                try:
                    entry |= engine_figures(backend, preset, SIZES[name], options.device, options.frames)
                except CrispStreamError as error:
                    entry |= {"error": str(error), "hint": error.hint}
                found["engines"].append(entry)
                _say(f"{backend} {preset} {name}", entry)
    slug = re.sub(r"[^a-z0-9]+", "-", found["card"]["name"].lower()).strip("-")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{slug}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(path)
    return 0


def engine_figures(backend: str, preset: str, size: tuple[int, int], device: int, frames: int) -> dict[str, Any]:
    """Milliseconds and frames a second of one engine, BGR24 frames in host memory in and out.

    ``latency_pinned``: one frame at a time, from call to result, page-locked memory on both sides; ``latency_pageable``
    the same from ordinary memory. ``fps``: a stream with SLOTS frames under way, both branches; ``fps_gated``: the same
    stream of sharp, still frames with gating. ``stages``: mean time in each CUDA stream. ``launch_us``: the host's time
    to launch a frame, with the graph and without; ``gpu_ms``: the compute stream's, likewise.
    """
    with Deblurrer(preset, f"cuda:{device}", backend=backend, gating=False) as deblurrer:
        pinned = [_filled(deblurrer.pinned_frame(*size), seed) for seed in range(4)]
        pageable = [frame.with_planes((frame.planes[0].copy(),)) for frame in pinned]
        result: dict[str, Any] = {"engine": deblurrer.engine.name}
        result["latency_pinned"] = _latency(deblurrer, pinned, frames)
        before = deblurrer.stats.as_dict()
        result["latency_pageable"] = _latency(deblurrer, pageable, frames)
        result["fps"] = _throughput(deblurrer, pinned, frames)
        result["stages"] = deblurrer.stats.as_dict()["stage_ms"]
        result["non_finite"] = deblurrer.stats.non_finite
        deblurrer.gating = True
        still = _filled(deblurrer.pinned_frame(*size), 0)
        still.planes[0][:] = 128
        result["fps_gated"] = _throughput(deblurrer, [still], frames)
        result["variants"] = deblurrer.stats.as_dict()["variants"]
        assert before["frames"] > 0
        runner = deblurrer._runner
        assert isinstance(runner, GpuRunner)
        lane: Lane = runner._lanes[next(iter(runner._lanes))]
        result["launch"] = deblurrer.engine.worker.call(_launch_times, lane, pinned[0], frames)  # type: ignore[union-attr]
        return result


def _latency(deblurrer: Deblurrer, frames: list[Frame], count: int) -> dict[str, float]:
    times = []
    for i in range(WARM_UP + count):
        start = perf_counter()
        deblurrer.submit(frames[i % len(frames)]).result()
        times.append(perf_counter() - start)
    measured = np.array(times[WARM_UP:]) * 1000
    return {f"p{p}" if p < 100 else "max": float(np.percentile(measured, p)) for p in PERCENTILES}


def _throughput(deblurrer: Deblurrer, frames: list[Frame], count: int) -> float:
    stream = deblurrer.open_stream()
    for i in range(WARM_UP):
        last = stream.submit(frames[i % len(frames)])
    last.result()
    start = perf_counter()
    for i in range(count):
        last = stream.submit(frames[i % len(frames)])
    last.result()
    return count / (perf_counter() - start)


class _Eager:
    """Stands for a captured graph and enqueues everything anew."""

    def __init__(self, lane: Lane, slot: Any, variant: Decision) -> None:
        self._lane, self._slot, self._variant = lane, slot, variant

    def launch(self, _: int) -> None:
        self._lane._enqueue(self._slot, self._variant)


def _launch_times(lane: Lane, frame: Frame, count: int) -> dict[str, dict[str, float]]:
    """Median over ``count`` frames, in the worker's thread; nothing else is under way."""
    captured = dict(lane._graphs)
    eager: Any = {(s.number, v.variant): _Eager(lane, s, v) for s in lane._slots for v in VARIANTS}
    found = {}
    for name, graphs in (("graph", captured), ("no_graph", eager)):
        lane._graphs = graphs
        host, gpu = [], []
        for _ in range(WARM_UP + count):
            future: Future[Any] = Future()
            start = perf_counter()
            lane.launch(frame, Decision(), 1.0, future)
            host.append(perf_counter() - start)
            while not future.done():
                lane._worker.finish_oldest()
            gpu.append(future.result().seconds["gpu"])
        found[name] = {"launch_us": 1e6 * median(host[WARM_UP:]), "gpu_ms": 1e3 * median(gpu[WARM_UP:])}
    lane._graphs = captured
    return found


def _filled(frame: Frame, seed: int) -> Frame:
    random = np.random.default_rng(seed)
    for plane in frame.planes:
        plane[...] = random.integers(0, 256, plane.shape, np.uint8)
    return frame


def _say(what: str, figures: object) -> None:
    print(f"{what}: {json.dumps(figures)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
