# SPDX-License-Identifier: Apache-2.0
"""How a frame lies in one block of memory, on the host or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from crispstream.frame import ColorSpec, Frame, PixelFormat, Plane, plane_shapes

ROW_ALIGNMENT = 16
PLANE_ALIGNMENT = 256


def _aligned(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


@dataclass(frozen=True)
class FrameLayout:
    """Planes of one format, size and colour; rows start at multiples of ROW_ALIGNMENT bytes, so that kernels may use
    their widest accesses, and planes at multiples of PLANE_ALIGNMENT."""

    format: PixelFormat
    width: int
    height: int
    color: ColorSpec

    @classmethod
    def of(cls, frame: Frame) -> FrameLayout:
        """The layout for frames like this one; how its own planes lie does not matter."""
        color = frame.color  # as far as a kernel sees it: one lane serves all frames that differ in the rest
        seen = ColorSpec(color.matrix, color.range, color.siting) if frame.format.is_yuv else ColorSpec()
        return cls(frame.format, frame.width, frame.height, seen)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the planes, as ``Frame`` has them."""
        return plane_shapes(self.format, self.width, self.height)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Bytes from row to row of each plane."""
        return tuple(_aligned(prod(shape[1:]), ROW_ALIGNMENT) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Byte where each plane starts."""
        heights = (shape[0] for shape in self.shapes)
        sizes = [_aligned(h * stride, PLANE_ALIGNMENT) for h, stride in zip(heights, self.strides, strict=True)]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the whole block."""
        return self.offsets[-1] + self.shapes[-1][0] * self.strides[-1]

    def planes(self, block: npt.NDArray[np.uint8]) -> tuple[Plane, ...]:
        """Views of the planes in ``block``, at least ``nbytes`` of uint8."""
        views = []
        for shape, stride, offset in zip(self.shapes, self.strides, self.offsets, strict=True):
            rows = block[offset : offset + shape[0] * stride].reshape(shape[0], stride)
            views.append(rows[:, : prod(shape[1:])].reshape(shape))
        return tuple(views)

    @staticmethod
    def inner_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes from sample to sample inside a row of a plane of this shape."""
        return tuple(prod(shape[i + 1 :]) for i in range(1, len(shape)))

    def addresses(self, base: int) -> tuple[int, ...]:
        """Where the planes start in a block at address ``base``."""
        return tuple(base + offset for offset in self.offsets)

    def is_one_block(self, frame: Frame) -> bool:
        """True where the frame's planes lie as this layout says, so that one copy moves them all."""
        first = frame.planes[0].ctypes.data
        return all(
            plane.ctypes.data == address and (plane.shape[0] == 1 or plane.strides[0] == stride)
            for plane, address, stride in zip(frame.planes, self.addresses(first), self.strides, strict=True)
        )
