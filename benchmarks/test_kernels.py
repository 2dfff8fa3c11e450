# SPDX-License-Identifier: Apache-2.0
"""``pytest benchmarks/test_kernels.py --benchmark-enable``: pixel kernels against the copy of as many bytes.

Packing and map stride are nano's. A copy that reads half of a kernel's bytes and writes the other half moves as much
memory as the kernel does; ``extra_info`` gives that copy's best time as a fraction of the kernel's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crispstream.frame import Frame, PixelFormat, plane_shapes
from crispstream.kernels import bindings
from crispstream.kernels.geometry import Geometry
from crispstream.model.presets import PRESETS

NANO = PRESETS["nano"]
ROUNDS = 100


@pytest.fixture(params=[(640, 360), (1280, 720)], ids=lambda size: f"{size[0]}x{size[1]}")
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return Geometry.for_size(*request.param, pack=NANO.pack, multiple=NANO.multiple, map_stride=NANO.map_stride)


@pytest.fixture(params=[PixelFormat.BGR24, PixelFormat.I420], ids=lambda pixel_format: pixel_format.name)
def frame(request: pytest.FixtureRequest, geometry: Geometry) -> Frame:
    rng = np.random.default_rng(0)
    shapes = plane_shapes(request.param, geometry.width, geometry.height)
    return Frame(tuple(rng.integers(0, 256, shape, np.uint8) for shape in shapes), request.param)


def size(frame: Frame) -> int:
    return sum(plane.nbytes for plane in frame.planes)


def measure(benchmark: Any, kernel: Callable[[], object], moved: int) -> None:
    source, target = np.ones(moved // 2, np.uint8), np.ones(moved // 2, np.uint8)
    copies = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - begin)
    benchmark.pedantic(kernel, rounds=ROUNDS, warmup_rounds=5)
    if benchmark.stats is not None:  # None where benchmarks are disabled
        benchmark.extra_info["megabytes_moved"] = round(moved / 1e6, 1)
        benchmark.extra_info["fraction_of_copy_speed"] = round(min(copies) / benchmark.stats.stats.min, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_unpack(benchmark: Any, geometry: Geometry, frame: Frame, threads: int) -> None:
    packed = np.empty(geometry.packed_shape, np.float32)
    measure(benchmark, lambda: bindings.unpack(frame, geometry, packed, threads), size(frame) + packed.nbytes)


@pytest.mark.parametrize("threads", [1, 2])
def test_blend(benchmark: Any, geometry: Geometry, frame: Frame, threads: int) -> None:
    rng = np.random.default_rng(1)
    head = rng.random(geometry.head_shape, np.float32)
    foreground, background = (rng.normal(0, 0.1, geometry.packed_shape).astype(np.float32) for _ in range(2))
    out = frame.empty_like()
    moved = 2 * size(frame) + head.nbytes + foreground.nbytes + background.nbytes
    arguments = (frame, geometry, head, foreground, background, out)
    measure(benchmark, lambda: bindings.blend(*arguments, threads=threads), moved)


def test_statistics(benchmark: Any, geometry: Geometry) -> None:
    head = np.random.default_rng(2).random(geometry.head_shape, np.float32)
    measure(benchmark, lambda: bindings.statistics(geometry, head), head.nbytes)
