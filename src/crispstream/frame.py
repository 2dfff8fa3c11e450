# SPDX-License-Identifier: Apache-2.0
"""The one type that flows between stages: a frame of 8-bit video with its colour and its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8]

MAX_SIDE = 32768
"""The widest and the tallest frame that the kernels take, in pixels."""


class PixelFormat(IntEnum):
    """Memory layout of a frame; the values are the C ABI's (``launchers.h``)."""

    BGR24 = 0
    RGB24 = 1
    NV12 = 2
    I420 = 3

    @property
    def is_yuv(self) -> bool:
        """True for the 4:2:0 formats, which carry luma and subsampled chroma."""
        return self in (PixelFormat.NV12, PixelFormat.I420)


class Matrix(IntEnum):
    """Luma coefficients (ITU-R BT.601-7, BT.709-6, BT.2020-2 non-constant luminance)."""

    BT601 = 0
    BT709 = 1
    BT2020 = 2


class Range(IntEnum):
    """Code range: LIMITED is 16..235 luma and 16..240 chroma, FULL is 0..255 (ITU-T H.273)."""

    LIMITED = 0
    FULL = 1


class ChromaSiting(IntEnum):
    """Where a 4:2:0 chroma sample lies: LEFT on even luma columns (MPEG-2, H.264), CENTER between them (JPEG).

    Vertically both lie midway between two luma rows.
    """

    LEFT = 0
    CENTER = 1


@dataclass(frozen=True, slots=True)
class ColorSpec:
    """How the codes of a frame mean colour. Chroma is upsampled bilinearly at its siting (``upsampling``).

    ``primaries`` and ``transfer`` are ITU-T H.273 code points (2 = unspecified); nothing here computes with them,
    they travel from the decoder to the encoder.
    """

    matrix: Matrix = Matrix.BT709
    range: Range = Range.LIMITED
    siting: ChromaSiting = ChromaSiting.LEFT
    primaries: int = 2
    transfer: int = 2

    @property
    def upsampling(self) -> str:
        """Chroma interpolation that unpack uses."""
        return "bilinear"


def plane_shapes(pixel_format: PixelFormat, width: int, height: int) -> tuple[tuple[int, ...], ...]:
    """Shape of every plane of a ``width`` x ``height`` frame; chroma sizes round up, so odd sizes are legal."""
    chroma = ((height + 1) // 2, (width + 1) // 2)
    if pixel_format is PixelFormat.I420:
        return ((height, width), chroma, chroma)
    if pixel_format is PixelFormat.NV12:
        return ((height, width), (*chroma, 2))
    return ((height, width, 3),)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture: uint8 planes, colour, presentation time.

    ``planes``: BGR24/RGB24 (H, W, 3); NV12 (H, W), (ceil(H/2), ceil(W/2), 2); I420 (H, W), twice
    (ceil(H/2), ceil(W/2)). Rows may be padded (any stride), samples inside a row are contiguous.
    ``pts`` and ``duration`` count ``time_base`` seconds; None where the source has no time.
    ``discontinuity`` says that this frame does not follow the one before it (seek, reconnect).
    ``info`` carries what the source wants its sink to have (alpha, ICC, EXIF, ...); no stage looks inside.
    Raises ValueError when planes and format disagree.
    """

    planes: tuple[Plane, ...]
    format: PixelFormat
    color: ColorSpec = field(default_factory=ColorSpec)
    pts: int | None = None
    time_base: Fraction | None = None
    duration: int | None = None
    discontinuity: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.planes or self.planes[0].ndim < 2 or 0 in self.planes[0].shape:
            raise ValueError("a frame needs at least one non-empty plane")
        expected = plane_shapes(self.format, self.width, self.height)
        if tuple(p.shape for p in self.planes) != expected:
            got = [p.shape for p in self.planes]
            raise ValueError(f"{self.format.name} {self.width}x{self.height} wants planes {expected}, got {got}")
        for p in self.planes:
            if p.dtype != np.uint8:
                raise ValueError(f"planes are uint8, got {p.dtype}")
            inner = p[0]
            if not inner.flags.c_contiguous or (p.shape[0] > 1 and p.strides[0] < inner.nbytes):
                raise ValueError("samples inside a row must be contiguous and rows must not overlap")

    @property
    def width(self) -> int:
        """Luma columns."""
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        """Luma rows."""
        return int(self.planes[0].shape[0])

    @property
    def seconds(self) -> Fraction | None:
        """Presentation time in seconds, exact; None where the source has no time."""
        if self.pts is None or self.time_base is None:
            return None
        return self.pts * self.time_base

    @classmethod
    def from_array(cls, array: Plane, pixel_format: PixelFormat = PixelFormat.BGR24) -> Frame:
        """Wrap an (H, W, 3) uint8 array without a copy where its rows allow it. Raises ValueError on another shape."""
        if pixel_format.is_yuv:
            raise ValueError("an array is BGR24 or RGB24; give the planes of other formats to Frame itself")
        if not isinstance(array, np.ndarray):
            raise ValueError(f"expected an (H, W, 3) uint8 array, got {type(array).__name__}")
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"expected an (H, W, 3) uint8 array, got {array.shape} {array.dtype}")
        if array.strides[1:] != (3, 1) or array.strides[0] < array.shape[1] * 3:
            array = np.ascontiguousarray(array)
        return cls((array,), pixel_format, ColorSpec(range=Range.FULL))

    def empty_like(self) -> Frame:
        """A frame of the same format, colour, time and info with fresh, uninitialised planes."""
        return self.with_planes(tuple(np.empty(p.shape, np.uint8) for p in self.planes))

    def with_planes(self, planes: tuple[Any, ...]) -> Frame:
        """The same frame with other pixels."""
        return replace(self, planes=planes)
