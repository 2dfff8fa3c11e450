# SPDX-License-Identifier: Apache-2.0
"""An engine on a GPU, frame by frame and as a stream: with the graph and without, gated and not, and in pieces."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from crispstream import Deblurrer, Frame
from crispstream.deblurrer import DeblurStream
from crispstream.engine.protocol import on_gpu
from crispstream.gating import Decision
from crispstream.kernels.library import Mix
from crispstream.runners.gpu import GpuRunner
from crispstream.runners.lane import VARIANTS, Lane
from crispstream.stats import Stats

WARM_UP = 30
"""Frames before each measurement: more than gating takes to leave idle branches out."""
PERCENTILES = (50, 95, 99, 100)
MOST_AHEAD = 100
"""Launches that wait on the GPU: few enough that the driver takes them without making the host wait."""


def engine_figures(backend: str, preset: str, size: tuple[int, int], device: int, frames: int) -> dict[str, Any]:
    """What one engine needs for a BGR24 frame, host memory to host memory. Raises CrispStreamError: it does not open.

    ``graph`` and ``no_graph``, where the host enqueues every kernel of every frame, each hold

    - ``pinned`` (page-locked frames in and out, both branches), ``pageable`` (ordinary memory in) and ``gated`` (as
      pinned, with gating): ``latency_ms`` of one frame at a time from call to result, and for these frames the mean
      ``stage_ms`` of each CUDA stream and the ``variants`` that ran; ``fps`` of a stream. The frames are noise,
      the gated ones black: gating leaves both branches out. What the host needs to copy a pageable frame into
      page-locked memory is in the latency and in no stage.
    - ``launch_us``, the host's time to launch a frame, and ``gpu_ms``, the compute stream's: medians.

    ``pieces_ms``: of each kernel and part by itself, enqueued one by one.
    """
    with Deblurrer(preset, f"cuda:{device}", backend=backend, gating=False) as deblurrer:
        pinned = [_filled(deblurrer.pinned_frame(*size), seed) for seed in range(4)]
        black = [_blackened(deblurrer.pinned_frame(*size)) for _ in range(4)]
        pageable = [frame.with_planes((frame.planes[0].copy(),)) for frame in pinned]
        lane, call = _lane(deblurrer), _worker(deblurrer).call
        captured = lane._graphs
        eager: Any = {(s.number, v.variant): _Eager(lane, s, v) for s in lane._slots for v in VARIANTS}
        found: dict[str, Any] = {"engine": deblurrer.engine.name}
        try:
            for name, graphs in (("graph", captured), ("no_graph", eager)):
                lane._graphs = graphs  # nothing is under way
                found[name] = {
                    "pinned": _figures(deblurrer, pinned, frames),
                    "pageable": _figures(deblurrer, pageable, frames),
                    "gated": _figures(deblurrer, black, frames, gating=True),
                    **call(_launch_times, lane, pinned[0], frames),
                }
        finally:
            lane._graphs = captured
        ahead = 1 + ceil(2 * found["no_graph"]["launch_us"] / 1000 / max(found["graph"]["gpu_ms"], 0.01))
        found["pieces_ms"] = call(_piece_times, lane, min(ahead, MOST_AHEAD), frames)
        return found


class _Eager:
    """Stands for a captured graph and enqueues everything anew."""

    def __init__(self, lane: Lane, slot: Any, variant: Decision) -> None:
        self._lane, self._slot, self._variant = lane, slot, variant

    def launch(self, _: int) -> None:
        self._lane._enqueue(self._slot, self._variant)


def _figures(deblurrer: Deblurrer, frames: list[Frame], count: int, gating: bool = False) -> dict[str, Any]:
    deblurrer.gating = gating
    stream = deblurrer.open_stream()
    _stream_seconds(stream, frames, WARM_UP)
    _forget(deblurrer)
    times = []
    for i in range(count):
        start = perf_counter()
        stream.process(frames[i % len(frames)])
        times.append(1000 * (perf_counter() - start))
    latency = {f"p{p}" if p < 100 else "max": float(np.percentile(times, p)) for p in PERCENTILES}
    stats = _forget(deblurrer).as_dict()
    fps = count / _stream_seconds(stream, frames, count)
    stats["non_finite"] += _forget(deblurrer).non_finite
    return {"latency_ms": latency, "fps": fps, **stats}


def _stream_seconds(stream: DeblurStream, frames: list[Frame], count: int) -> float:
    """From the first frame handed over to the last result."""
    start = perf_counter()
    for i in range(count):
        last = stream.submit(frames[i % len(frames)])
    last.result()
    return perf_counter() - start


def _forget(deblurrer: Deblurrer) -> Stats:
    """The statistics until now; from here on they start afresh."""
    _worker(deblurrer).call(int)  # its thread counts a frame just after it has handed the result over
    stats, deblurrer.stats = deblurrer.stats, Stats()
    return stats


def _launch_times(lane: Lane, frame: Frame, count: int) -> dict[str, float]:
    """Medians over ``count`` frames, in the worker's thread; nothing else is under way."""
    host, gpu = [], []
    for _ in range(WARM_UP + count):
        future: Future[Any] = Future()
        start = perf_counter()
        lane.launch(frame, Decision(), 1.0, future)
        host.append(perf_counter() - start)
        while not future.done():
            lane._worker.finish_oldest()
        gpu.append(future.result().seconds["gpu"])
    return {"launch_us": 1e6 * median(host[WARM_UP:]), "gpu_ms": 1e3 * median(gpu[WARM_UP:])}


def _piece_times(lane: Lane, ahead: int, count: int) -> dict[str, float]:
    """Medians of what a frame with both branches is made of, by events between the pieces; in the worker's thread.

    ``ahead`` whole frames are launched before, so that the GPU is still behind when the last piece is enqueued: what
    passes between two events is the GPU's time, not the host's.
    """
    device, kernels, parts, slot = lane._device, lane._device.kernels, lane._parts, lane._slots[0]
    compute, findings = lane._streams.compute, slot.findings_address
    job, stream = (slot.job, slot.job_address, 1, lane._sizes), compute.handle
    pieces = {
        "unpack": partial(kernels.unpack, *job, parts.packed, stream),
        "encoder": partial(parts.enqueue, "encoder", stream),
        "statistics": partial(kernels.statistics, lane._sizes, 1, parts.head, findings, stream),
        "foreground": partial(parts.enqueue, "foreground", stream),
        "background": partial(parts.enqueue, "background", stream),
        "blend": partial(kernels.blend, *job, parts.head, parts.foreground, parts.background, findings, stream),
    }
    graph = lane._graphs[slot.number, Decision().variant]
    slot.post(slot.send(None, compute), slot.destination(None), Mix(1, 1, 0), compute)
    times: dict[str, list[float]] = {name: [] for name in pieces}
    marks = [device.event(timing=True) for _ in range(len(pieces) + 1)]
    try:
        for _ in range(WARM_UP + count):
            for _ in range(ahead):
                graph.launch(stream)
            marks[0].record(compute)
            for piece, mark in zip(pieces.values(), marks[1:], strict=True):
                piece()
                mark.record(compute)
            compute.synchronize()
            for name, start, end in zip(pieces, marks[:-1], marks[1:], strict=True):
                times[name].append(end.milliseconds_since(start))
    finally:
        for mark in marks:
            mark.close()
    return {name: median(each[WARM_UP:]) for name, each in times.items()}


def _lane(deblurrer: Deblurrer) -> Lane:
    """The only one that is open."""
    runner = deblurrer._runner
    assert isinstance(runner, GpuRunner)
    (lane,) = runner._lanes.values()
    return lane


def _worker(deblurrer: Deblurrer) -> Any:
    engine = deblurrer.engine
    assert on_gpu(engine)
    return engine.worker


def _filled(frame: Frame, seed: int) -> Frame:
    random = np.random.default_rng(seed)
    for plane in frame.planes:
        plane[...] = random.integers(0, 256, plane.shape, np.uint8)
    return frame


def _blackened(frame: Frame) -> Frame:
    for plane in frame.planes:
        plane[...] = 0
    return frame
