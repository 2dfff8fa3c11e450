# SPDX-License-Identifier: Apache-2.0
"""The engine alone beside the reference convolution. Presets without weights are untrained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.limits import Convolution
from benchmarks.paired import Paired, timed
from benchmarks.sizes import SIZES, area, pixels
from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.engine.protocol import Engine, EngineSession
from crispstream.export.fused import FusedSession, fused_graph
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import PARTS
from crispstream.runners.protocol import geometry_of

EngineOf = Callable[[str, str, int], Engine]

BRANCHES = {"both": PARTS[1:], "foreground": PARTS[1:2], "background": PARTS[2:], "none": ()}
FEWER = ("foreground", "background", "none")
SMALL_SIZES = SIZES[:2]
CASES = [
    *(("nano", precision, size, "both") for precision in ("fp32", "int8") for size in SIZES),
    *((preset, "fp32", size, "both") for preset in ("small", "base") for size in SMALL_SIZES),
    *(("nano", precision, size, one) for precision in ("fp32", "int8") for size in SMALL_SIZES for one in FEWER),
    *((preset, "fp32", SIZES[0], one) for preset in ("small", "base") for one in FEWER),
]


def open_session(engine: Engine, size: str) -> tuple[EngineSession, Geometry]:
    """A session with noise to work on, and its geometry."""
    geometry = geometry_of(engine.manifest, pixels(size))
    session = engine.session(geometry)
    session.packed[:] = np.random.default_rng(0).random(geometry.packed_shape, np.float32)
    return session, geometry


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("preset", "precision", "size", "branches"), CASES)
def test_engine(
    paired: Paired, engine_of: EngineOf, preset: str, precision: str, size: str, branches: str, threads: int
) -> None:
    engine = engine_of(preset, precision, threads)
    session, geometry = open_session(engine, size)
    convolution = Convolution(engine.manifest, geometry, threads)
    parts = ("encoder", *BRANCHES[branches])
    macs = geometry.padded_width * geometry.padded_height * sum(engine.manifest.macs_per_pixel[part] for part in parts)
    wanted = {part: part in parts for part in PARTS[1:]}
    found = paired(lambda: session.run(**wanted), lambda: convolution.seconds(macs), "convolution")
    found["gmac"] = macs / 1e9
    assert np.isfinite(session.head).all()


@pytest.mark.parametrize("size", SMALL_SIZES)
@pytest.mark.parametrize("preset", ["nano", "small", "base", "convolution"])
def test_two_threads(paired: Paired, engine_of: EngineOf, preset: str, size: str) -> None:
    """Time with two threads over time with one; of the reference convolution, too: what the machine itself gives."""
    engines = [engine_of("nano" if preset == "convolution" else preset, "fp32", threads) for threads in (1, 2)]
    geometry = geometry_of(engines[0].manifest, pixels(size))
    one, two = (
        Convolution(engine.manifest, geometry, threads)
        if preset == "convolution"
        else timed(open_session(engine, size)[0].run)
        for threads, engine in enumerate(engines, 1)
    )
    paired(two, one, "one thread")


@pytest.mark.parametrize("size", SIZES[1:])
def test_pixel(paired: Paired, engine_of: EngineOf, size: str) -> None:
    """What a pixel costs in a larger frame, over what it costs at 640x360: ``nano`` with two threads."""
    engine = engine_of("nano", "fp32", 2)
    (smallest, _), (larger, _) = (open_session(engine, one) for one in (SIZES[0], size))
    ratio = area(size) / area(SIZES[0])
    frames = round(ratio)  # that both take about as long

    def same_pixels() -> float:
        return ratio * sum(timed(smallest.run)() for _ in range(frames)) / frames

    paired(larger.run, same_pixels, f"as many pixels at {SIZES[0]}")
    assert np.isfinite(larger.head).all()


def test_parts(paired: Paired, engine_of: EngineOf) -> None:
    """The three parts beside the fused graph, nano at 640x360."""
    engine = engine_of("nano", "fp32", 2)
    assert isinstance(engine, OnnxRuntimeEngine)
    session, geometry = open_session(engine, SIZES[0])
    fused = FusedSession(fused_graph(engine.manifest), engine.manifest, geometry, engine.threads)
    fused.packed[:] = session.packed
    paired(session.run, timed(fused.run), "fused graph")
    assert np.isfinite(fused.head).all()
