# SPDX-License-Identifier: Apache-2.0
"""What the machine can give: the copying of memory, and a plain convolution in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from crispstream.engine.onnxruntime import bind, open_graph
from crispstream.engine.protocol import Array
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import Manifest

T = TypeVar("T")

CHANNELS = 64
MOST_PIXELS = 960 * 544
"""The reference convolution takes no more at once: at 2160p it would need a gigabyte, at the same GMAC/s."""

ROTATED_BYTES = 128 * 2**20
"""Buffers take turns over so many bytes, more than a cache holds: in a frame the engine's tensors lie between."""


def rotation(moved: int, make: Callable[[], T]) -> Iterator[T]:
    """Sets of buffers, over and over; ``moved``: bytes that are read and written of one."""
    return cycle([make() for _ in range(max(2, -(-ROTATED_BYTES // max(1, moved))))])


class Copy:
    """Copies from memory to memory by ``threads`` threads, which read half of ``moved`` bytes and write the other half.

    A kernel that reads and writes so many bytes in all moves as much memory.
    """

    def __init__(self, moved: int, threads: int) -> None:
        def bands() -> list[tuple[Array, Array]]:
            source, target = (np.ones(max(1, moved // 2), np.uint8) for _ in range(2))
            return list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

        self._sets = rotation(moved, bands)
        self._pool = ThreadPoolExecutor(threads)  # started only where there is more than one band

    def __call__(self) -> float:
        """Copy once; seconds."""
        first, *rest = next(self._sets)
        start = perf_counter()
        others = [self._pool.submit(np.copyto, *band) for band in rest]
        np.copyto(*first)
        for other in others:
            other.result()
        return perf_counter() - start


class Convolution:
    """A 3x3 convolution from 64 to 64 channels, over as many pixels as the network's first scale has.

    Opened and bound as the engine opens and binds its graphs. ``macs``: multiply-accumulates of a run. Raises
    EngineError.
    """

    def __init__(self, manifest: Manifest, geometry: Geometry, threads: int) -> None:
        width = geometry.padded_width // geometry.pack
        height = min(geometry.padded_height // geometry.pack, max(1, MOST_PIXELS // width))
        shape = (1, CHANNELS, height, width)
        self.macs = 9 * CHANNELS**2 * height * width
        random = np.random.default_rng(0)
        self._arrays = {"x": random.random(shape, np.float32), "y": np.empty(shape, np.float32)}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "convolution.onnx"
            onnx.save(_graph(shape), path)
            self._session = open_graph(path, manifest, geometry, threads)
        self._binding = bind(self._session, self._arrays)

    def __call__(self) -> float:
        """Run once; seconds."""
        start = perf_counter()
        self._session.run_with_iobinding(self._binding)
        return perf_counter() - start

    def seconds(self, macs: float) -> float:
        """Run once; seconds that ``macs`` multiply-accumulates would take at this rate."""
        return self() * macs / self.macs


def _graph(shape: tuple[int, ...]) -> onnx.ModelProto:
    weight = np.random.default_rng(1).normal(0, 0.04, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "convolution", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
