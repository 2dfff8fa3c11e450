# SPDX-License-Identifier: Apache-2.0
"""``pytest benchmarks/test_engine.py --benchmark-enable``: nano at 640x360 in ONNX Runtime, three parts and fused.

The network is untrained: speed does not depend on the weights. ``crispstream bench`` measures the whole path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.export.build import build
from crispstream.export.fused import FusedSession, fused_graph, time_ratio
from crispstream.kernels.geometry import Geometry
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import save_weights

NANO = preset("nano")
GEOMETRY = Geometry.for_size(640, 360, pack=NANO.pack, multiple=NANO.multiple, map_stride=NANO.map_stride)
ROUNDS = 100


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeEngine:
    folder = tmp_path_factory.mktemp("engine")
    save_weights(HumanAwareNet(NANO), folder / "weights.safetensors")
    return OnnxRuntimeEngine(build(NANO, folder / "weights.safetensors", folder))


def noise() -> Any:
    return np.random.default_rng(0).random(GEOMETRY.packed_shape, np.float32)


@pytest.mark.parametrize("variant", ["both", "foreground", "none"])
def test_parts(engine: OnnxRuntimeEngine, benchmark: Callable[..., object], variant: str) -> None:
    session = engine.session(GEOMETRY)
    session.packed[:] = noise()
    benchmark(session.run, foreground=variant != "none", background=variant == "both")
    assert np.isfinite(session.head).all()


def test_fused(
    engine: OnnxRuntimeEngine,
    benchmark: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    session = FusedSession(fused_graph(engine.manifest), engine.manifest, GEOMETRY, engine.threads)
    session.packed[:] = noise()
    benchmark(session.run)
    assert np.isfinite(session.head).all()


def test_parts_cost_little_more_than_the_fused_graph(engine: OnnxRuntimeEngine) -> None:
    """Interleaved, median of the rounds. On a machine that does nothing else."""
    assert time_ratio(engine, GEOMETRY, ROUNDS) <= 1.05
