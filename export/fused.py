# SPDX-License-Identifier: Apache-2.0
"""The fused graph, packed -> head and both residuals: what the parts are compared with."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from crispstream.cache import cache_folder
from crispstream.engine.onnxruntime import OnnxRuntimeEngine, bind, open_graph
from crispstream.engine.protocol import Array
from crispstream.errors import OutputError
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import Manifest
from crispstream.model.presets import preset

from .graph import BOUNDARIES, build_graph
from .weights import read_weights


def fused_graph(engine: Manifest) -> Path:
    """Make the fused graph, weights inside, in the user's cache. Raises EngineError, OutputError."""
    data = build_graph(preset(engine.preset), read_weights(engine.weights_path), "fused").SerializeToString()
    path = cache_folder() / f"{engine.preset}-{engine.weights.sha256[:16]}-fused.onnx"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", "set XDG_CACHE_HOME") from error
    return path


class FusedSession:
    """The fused graph in ONNX Runtime, opened and bound as the parts are. Fill ``packed``, ``run``, read the rest."""

    def __init__(self, path: Path, engine: Manifest, geometry: Geometry, threads: int) -> None:
        shapes = (geometry.packed_shape, geometry.head_shape, geometry.packed_shape, geometry.packed_shape)
        (packed,), outputs = BOUNDARIES["fused"]
        arrays: dict[str, Array] = {
            name: np.zeros(shape, np.float32) for name, shape in zip((packed, *outputs), shapes, strict=True)
        }
        self.packed, self.head = arrays["packed"], arrays["head"]
        self.foreground, self.background = arrays["foreground"], arrays["background"]
        self._session = open_graph(path, engine, geometry, threads)
        self._binding = bind(self._session, arrays)

    def run(self) -> None:
        """Read ``packed``, write ``head``, ``foreground``, ``background``."""
        self._session.run_with_iobinding(self._binding)


def time_ratio(engine: OnnxRuntimeEngine, geometry: Geometry, rounds: int = 30) -> float:
    """Time of the three parts over that of the fused graph: run in turn, median of the rounds' ratios."""
    parts = engine.session(geometry)
    fused = FusedSession(fused_graph(engine.manifest), engine.manifest, geometry, engine.threads)
    parts.packed[:] = fused.packed[:] = np.random.default_rng(0).random(geometry.packed_shape, np.float32)
    ratios = []
    for _ in range(rounds):
        start = perf_counter()
        parts.run()
        middle = perf_counter()
        fused.run()
        ratios.append((middle - start) / (perf_counter() - middle))
    return median(ratios)
