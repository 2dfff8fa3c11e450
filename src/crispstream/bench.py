# SPDX-License-Identifier: Apache-2.0
"""How fast a preset is on this machine: the engine alone, and the whole path from memory to memory."""

from __future__ import annotations

import platform
from collections.abc import Callable
from statistics import mean
from time import perf_counter
from types import TracebackType
from typing import Any, cast

import numpy as np
import onnxruntime

from crispstream import __version__, cpu
from crispstream.deblurrer import Deblurrer
from crispstream.doctor import vector_level
from crispstream.engine.protocol import Engine
from crispstream.frame import Frame, PixelFormat, plane_shapes
from crispstream.kernels import bindings
from crispstream.runners.protocol import geometry_of
from crispstream.threads import cpu_quota

STAGES = ("unpack", "encoder", "foreground", "background", "blend")
# The measurements take turns in short blocks, so that a disturbance of the machine hits all of them alike.
BLOCK_FRAMES = 10
WARM_UP_FRAMES = 5
# Different frames in turn: pixels that are still in the cache from the last frame would flatter.
DISTINCT_FRAMES = 4


def bench(preset: str, size: tuple[int, int], frames: int = 100, threads: int | None = None) -> dict[str, Any]:
    """Measure ``preset`` at ``size`` (width, height) over ``frames`` frames of each kind; no codec, gating off.

    ``engine``: the name of the one that the CPU uses by itself. ``fps_engine``: its three parts alone, on a tensor that
    is ready. ``fps_end_to_end``: BGR24 frames in memory through ``Deblurrer.stream`` to frames in memory,
    ``fps_end_to_end_i420`` the same with I420; ``end_to_end_of_engine``: the first of these over ``fps_engine``.
    ``stages_ms``: mean of each stage. ``latency_ms``: one BGR24 frame from call to return, nothing else under way.
    Raises UsageError, EngineError.
    """
    latencies: list[float] = []
    with Workload(preset, size, threads) as work:
        blocks: dict[str, Callable[[int], object]] = {
            "engine": work.engine,
            "bgr": work.stream,
            "i420": lambda count: work.stream(count, PixelFormat.I420),
            "latency": lambda count: latencies.extend(work.process() for _ in range(count)),
        }
        seconds = _take_turns(blocks, frames)
        measured = latencies[-frames:]
        return {
            "preset": preset,
            "engine": work.runtime.name,
            "width": size[0],
            "height": size[1],
            "frames": frames,
            "fps_engine": frames / seconds["engine"],
            "fps_end_to_end": frames / seconds["bgr"],
            "fps_end_to_end_i420": frames / seconds["i420"],
            "end_to_end_of_engine": seconds["engine"] / seconds["bgr"],
            "stages_ms": {name: 1000 * mean(stages[name] for stages in work.stages) for name in STAGES},
            "latency_ms": {f"p{p}": 1000 * float(np.percentile(measured, p)) for p in (50, 95, 99)},
            "machine": machine(threads),
        }


class Workload:
    """A Deblurrer on the CPU without gating, frames of one size for it, and its engine alone. Close it.

    ``stages``: seconds of each stage in each frame that ``process`` took. Raises UsageError, EngineError.
    """

    def __init__(self, preset: str, size: tuple[int, int], threads: int | None = None, backend: str = "auto") -> None:
        self._deblurrer = Deblurrer(preset, "cpu", backend=backend, gating=False, threads=threads)
        self.runtime = cast(Engine, self._deblurrer.engine)
        formats = (PixelFormat.BGR24, PixelFormat.I420)
        self._frames = {kind: [noise(kind, size, seed) for seed in range(DISTINCT_FRAMES)] for kind in formats}
        geometry = geometry_of(self.runtime.manifest, size)
        self._session = self.runtime.session(geometry)
        bindings.unpack(self._frames[PixelFormat.BGR24][0], geometry, self._session.packed)
        self._single = self._deblurrer.open_stream()
        self.stages: list[dict[str, float]] = []

    def engine(self, count: int = 1) -> None:
        """All parts of the network, ``count`` times, on a tensor that is ready."""
        for _ in range(count):
            self._session.run(foreground=True, background=True)

    def stream(self, count: int, pixel_format: PixelFormat = PixelFormat.BGR24) -> None:
        """``count`` frames (BGR24 or I420) through ``Deblurrer.stream``."""
        frames = self._frames[pixel_format]
        for _ in self._deblurrer.stream(frames[i % DISTINCT_FRAMES] for i in range(count)):
            pass

    def process(self) -> float:
        """One BGR24 frame, alone; seconds from call to return."""
        before = self._deblurrer.stats.seconds.copy()
        frame = self._frames[PixelFormat.BGR24][len(self.stages) % DISTINCT_FRAMES]
        start = perf_counter()
        self._single.process(frame)
        took = perf_counter() - start
        after = self._deblurrer.stats.seconds
        self.stages.append({name: after[name] - before[name] for name in STAGES})
        return took

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        self._deblurrer.close()

    def __enter__(self) -> Workload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def machine(threads: int | None) -> dict[str, Any]:
    """What the figures belong to: processor, threads, versions."""
    return {
        "cpu": cpu.model(),
        "vector_level": vector_level(),
        "threads": threads or cpu_quota(),
        "crispstream": __version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def noise(pixel_format: PixelFormat, size: tuple[int, int], seed: int = 0) -> Frame:
    """A (width, height) frame of soft noise; the cost of a frame does not depend on its pixels while gating is off."""
    random = np.random.default_rng(seed)
    shapes = plane_shapes(pixel_format, *size)
    return Frame(tuple(random.integers(64, 192, shape, np.uint8) for shape in shapes), pixel_format)


def _take_turns(blocks: dict[str, Callable[[int], object]], frames: int) -> dict[str, float]:
    """Seconds of ``frames`` frames of each block, measured in alternation after a warm-up."""
    for block in blocks.values():
        block(WARM_UP_FRAMES)
    seconds = dict.fromkeys(blocks, 0.0)
    for start in range(0, frames, BLOCK_FRAMES):
        for name, block in blocks.items():
            since = perf_counter()
            block(min(BLOCK_FRAMES, frames - start))
            seconds[name] += perf_counter() - since
    return seconds
