# SPDX-License-Identifier: Apache-2.0
"""Unpack, blend and statistics beside the copy of as many bytes by as many threads, in nano's geometry."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.limits import Copy, rotation
from benchmarks.paired import Paired
from benchmarks.sizes import SIZES, pixels
from crispstream.bench import noise
from crispstream.frame import Frame, PixelFormat
from crispstream.kernels import bindings
from crispstream.kernels.geometry import Geometry
from crispstream.model.presets import PRESETS

NANO = PRESETS["nano"]

sizes = pytest.mark.parametrize("size", SIZES)
formats = pytest.mark.parametrize("pixel_format", ["BGR24", "NV12", "I420"])
thread_counts = pytest.mark.parametrize("threads", [1, 2])


def geometry_of(size: str) -> Geometry:
    return Geometry.for_size(*pixels(size), pack=NANO.pack, multiple=NANO.multiple, map_stride=NANO.map_stride)


def size_of(frame: Frame) -> int:
    return sum(plane.nbytes for plane in frame.planes)


def copied(frame: Frame) -> Frame:
    return Frame(tuple(plane.copy() for plane in frame.planes), frame.format)


@thread_counts
@formats
@sizes
def test_unpack(paired: Paired, size: str, pixel_format: str, threads: int) -> None:
    frame, geometry = noise(PixelFormat[pixel_format], pixels(size)), geometry_of(size)
    packed = np.ones(geometry.packed_shape, np.float32)
    moved = size_of(frame) + packed.nbytes
    sets = rotation(moved, lambda: (copied(frame), packed.copy()))

    def unpack() -> None:
        source, target = next(sets)
        bindings.unpack(source, geometry, target, threads)

    paired(unpack, Copy(moved, threads), "copy")


@thread_counts
@formats
@sizes
def test_blend(paired: Paired, size: str, pixel_format: str, threads: int) -> None:
    frame, geometry = noise(PixelFormat[pixel_format], pixels(size)), geometry_of(size)
    random = np.random.default_rng(1)
    head = random.random(geometry.head_shape, np.float32)
    residual = random.random(geometry.packed_shape, np.float32) - np.float32(0.5)
    moved = 2 * size_of(frame) + head.nbytes + 2 * residual.nbytes
    sets = rotation(moved, lambda: (copied(frame), head.copy(), residual.copy(), residual.copy(), copied(frame)))

    def blend() -> None:
        source, maps, foreground, background, out = next(sets)
        bindings.blend(source, geometry, maps, foreground, background, out, threads=threads)

    paired(blend, Copy(moved, threads), "copy")


@sizes
def test_statistics(paired: Paired, size: str) -> None:
    """In a frame the head is small and in the cache still; here it comes from memory."""
    geometry = geometry_of(size)
    head = np.random.default_rng(2).random(geometry.head_shape, np.float32)
    heads = rotation(head.nbytes, head.copy)
    paired(lambda: bindings.statistics(geometry, next(heads)), Copy(head.nbytes, 1), "copy")
