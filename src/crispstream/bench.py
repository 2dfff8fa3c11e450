# SPDX-License-Identifier: Apache-2.0
"""How fast a preset is on this machine: the engine alone, and the whole path from memory to memory."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from time import perf_counter
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
    width, height = size
    bgr = [_frame(PixelFormat.BGR24, width, height, seed) for seed in range(DISTINCT_FRAMES)]
    i420 = [_frame(PixelFormat.I420, width, height, seed) for seed in range(DISTINCT_FRAMES)]
    with Deblurrer(preset, "cpu", gating=False, threads=threads) as deblurrer:
        runtime = cast(Engine, deblurrer.engine)
        geometry = geometry_of(runtime.manifest, size)
        session = runtime.session(geometry)
        bindings.unpack(bgr[0], geometry, session.packed)
        single = deblurrer.open_stream()
        stages: Counter[str] = Counter()
        latencies: list[float] = []

        def engine(count: int) -> None:
            for _ in range(count):
                session.run(foreground=True, background=True)

        def streamed(source: list[Frame]) -> Callable[[int], None]:
            def block(count: int) -> None:
                for _ in deblurrer.stream(source[i % DISTINCT_FRAMES] for i in range(count)):
                    pass

            return block

        def one_by_one(count: int) -> None:
            before = deblurrer.stats.seconds.copy()
            for i in range(count):
                start = perf_counter()
                single.process(bgr[i % DISTINCT_FRAMES])
                latencies.append(perf_counter() - start)
            stages.update({name: deblurrer.stats.seconds[name] - before[name] for name in STAGES})

        blocks = {"engine": engine, "bgr": streamed(bgr), "i420": streamed(i420), "latency": one_by_one}
        seconds = _take_turns(blocks, frames)
        measured = latencies[-frames:]
        return {
            "preset": preset,
            "engine": runtime.name,
            "width": width,
            "height": height,
            "frames": frames,
            "fps_engine": frames / seconds["engine"],
            "fps_end_to_end": frames / seconds["bgr"],
            "fps_end_to_end_i420": frames / seconds["i420"],
            "end_to_end_of_engine": seconds["engine"] / seconds["bgr"],
            "stages_ms": {name: 1000 * stages[name] / len(latencies) for name in STAGES},
            "latency_ms": {f"p{p}": 1000 * float(np.percentile(measured, p)) for p in (50, 95, 99)},
            "machine": machine(threads),
        }


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


def _take_turns(blocks: dict[str, Callable[[int], None]], frames: int) -> dict[str, float]:
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


def _frame(pixel_format: PixelFormat, width: int, height: int, seed: int) -> Frame:
    """A frame of soft noise; the cost of a frame does not depend on its pixels while gating is off."""
    random = np.random.default_rng(seed)
    shapes = plane_shapes(pixel_format, width, height)
    return Frame(tuple(random.integers(64, 192, shape, np.uint8) for shape in shapes), pixel_format)
