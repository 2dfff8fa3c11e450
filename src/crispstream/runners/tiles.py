# SPDX-License-Identifier: Apache-2.0
"""Frames that are too large for the memory, cut into overlapping tiles that the network sees one after the other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from crispstream.errors import UsageError
from crispstream.frame import Frame
from crispstream.manifest import Manifest
from crispstream.memory import memory_size

ARENA = 5.6
"""Memory that an engine takes, over that of the tensors between its parts: ONNX Runtime keeps what its layers work in,
for each part, in steps that double. Measured with 1.30 at 12 sizes from 640x360 to 5120x2880: 4.0 to 5.3."""
SHARE = 4
"""Frames that would take more than this part of the machine's memory run in tiles."""
CHROMA_REACH = 2
"""Pixels beyond its own that unpack interpolates the chroma of a pixel from."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile, in pixels of the padded frame: the tile is ``begin`` to ``end``, its results count from
    ``first`` to ``last``. All are multiples of the padding multiple."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def own(self) -> slice:
        """Where the results that count lie in the tile."""
        return slice(self.first - self.begin, self.last - self.begin)


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a frame. Slices that reach into the padding end where the frame ends."""

    x: Span
    y: Span

    @property
    def padded_width(self) -> int:
        """Columns that the network sees."""
        return self.x.end - self.x.begin

    @property
    def padded_height(self) -> int:
        """Rows that the network sees."""
        return self.y.end - self.y.begin

    def cut(self, frame: Frame) -> Frame:
        """The tile's part of ``frame``: views, nothing is copied."""
        rows, columns = slice(self.y.begin, self.y.end), slice(self.x.begin, self.x.end)
        steps = _steps(frame)
        planes = (p[_scaled(rows, n), _scaled(columns, n)] for p, n in zip(frame.planes, steps, strict=True))
        return frame.with_planes(tuple(planes))

    def paste(self, part: Frame, out: Frame) -> None:
        """Copy what counts of the restored ``part``, as large as ``cut`` makes it, into ``out``."""
        rows, columns = slice(self.y.first, self.y.last), slice(self.x.first, self.x.last)
        for to, origin, n in zip(out.planes, part.planes, _steps(out), strict=True):
            own = origin[_scaled(self.y.own, n), _scaled(self.x.own, n)]
            to[_scaled(rows, n), _scaled(columns, n)] = own

    def paste_map(self, part: npt.NDArray[Any], head: npt.NDArray[Any], map_stride: int) -> None:
        """Copy what counts of the tile's head (1, 2, rows, columns) into that of the frame."""
        rows, columns = slice(self.y.first, self.y.last), slice(self.x.first, self.x.last)
        own = part[..., _scaled(self.y.own, map_stride), _scaled(self.x.own, map_stride)]
        head[..., _scaled(rows, map_stride), _scaled(columns, map_stride)] = own


@dataclass(frozen=True)
class Tiling:
    """How frames are cut for the engine of ``manifest``. ``wanted``: "auto" (what SHARE says), "off", or the largest
    tile as WIDTHxHEIGHT. Raises UsageError for anything else."""

    manifest: Manifest
    wanted: str

    def __post_init__(self) -> None:
        if self.wanted in ("auto", "off"):
            return
        smallest = 2 * self.halo + self.manifest.multiple
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", self.wanted)
        if match is None:
            raise UsageError(
                f"'{self.wanted}' says nothing about tiles", "auto, off or WIDTHxHEIGHT, such as 1920x1080"
            )
        if min(self._largest) < smallest:
            reason = f"the overlap takes {self.halo} pixels on each side"
            raise UsageError(f"tiles of {self.wanted} are too small: {reason}", f"{smallest}x{smallest} at least")

    @property
    def halo(self) -> int:
        """Pixels of a tile, next to other tiles, whose results do not count: what lies beyond could change them."""
        return _up(self.manifest.receptive_radius + CHROMA_REACH, self.manifest.multiple)

    def memory(self, width: int, height: int) -> int:
        """Bytes that an engine takes for frames of this size, estimated; measured with ONNX Runtime."""
        step = self.manifest.multiple
        tensors = self.manifest.tensors
        cell = sum(
            prod(tensor.sizes(step, step)) * np.dtype(tensor.dtype).itemsize * (2 if name == "residual" else 1)
            for name, tensor in tensors.items()
        )
        return round(ARENA * cell * (_up(width, step) // step) * (_up(height, step) // step))

    def tiles(self, width: int, height: int) -> tuple[Tile, ...]:
        """What a frame of this size is cut into, rows first; all tiles have one size. One tile is the whole frame."""
        columns, rows = self._counts(width, height)
        return tuple(Tile(x, y) for y in self._spans(height, rows) for x in self._spans(width, columns))

    @property
    def _largest(self) -> Size:
        width, _, height = self.wanted.partition("x")
        return _up(int(width), self.manifest.multiple), _up(int(height), self.manifest.multiple)

    def _counts(self, width: int, height: int) -> Size:
        """Columns and rows of tiles."""
        if self.wanted == "off" or (self.wanted == "auto" and self.memory(width, height) <= memory_size() // SHARE):
            return 1, 1
        if self.wanted != "auto":
            largest = self._largest
            return self._count(width, largest[0]), self._count(height, largest[1])
        # The least work that fits; where nothing does, the smallest tiles, two thirds of which are overlap.
        across, down = (range(1, self._count(side, 3 * self.halo) + 1) for side in (width, height))
        sizes = {
            counts: (self._side(width, counts[0]), self._side(height, counts[1])) for counts in product(across, down)
        }
        fitting = [counts for counts in sizes if self.memory(*sizes[counts]) <= memory_size() // SHARE]
        if not fitting:
            return min(sizes, key=lambda counts: prod(sizes[counts]))
        return min(fitting, key=lambda counts: prod(counts) * prod(sizes[counts]))

    def _count(self, length: int, largest: int) -> int:
        """How many tiles of at most ``largest`` pixels cover an axis."""
        padded = _up(length, self.manifest.multiple)
        return 1 if padded <= largest else ceil((padded - 2 * self.halo) / (largest - 2 * self.halo))

    def _side(self, length: int, count: int) -> int:
        """Pixels of each of ``count`` tiles along an axis, alike and as small as can be."""
        padded = _up(length, self.manifest.multiple)
        return (
            padded
            if count == 1
            else _up(ceil((padded - 2 * self.halo) / count) + 2 * self.halo, self.manifest.multiple)
        )

    def _spans(self, length: int, count: int) -> list[Span]:
        padded, side = _up(length, self.manifest.multiple), self._side(length, count)
        if side == padded:
            return [Span(0, padded, 0, padded)]
        step = side - 2 * self.halo
        begins = [0, *range(step, padded - side, step), padded - side]
        lasts = [begin + side - self.halo for begin in begins[:-1]] + [padded]
        firsts = [0, *lasts[:-1]]
        return [Span(b, b + side, first, last) for b, first, last in zip(begins, firsts, lasts, strict=True)]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _steps(frame: Frame) -> tuple[int, ...]:
    """Luma pixels for each sample of a plane, along either axis."""
    return (1, *(2 for _ in frame.planes[1:]))


def _scaled(pixels: slice, step: int) -> slice:
    return slice(pixels.start // step, pixels.stop // step)
