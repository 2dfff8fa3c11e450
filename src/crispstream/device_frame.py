# SPDX-License-Identifier: Apache-2.0
"""A frame whose planes lie in a GPU's memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from crispstream.cuda.interop import DeviceArray
from crispstream.errors import UsageError
from crispstream.frame import ColorSpec, Frame, PixelFormat, Range, plane_shapes


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrame(Frame):
    """``Frame`` with ``crispstream.cuda.interop.DeviceArray`` as planes, of the same shapes.

    What a Deblurrer returns for one lies in memory of its engine: it is used again once the last plane is gone, and
    freed by ``Deblurrer.close``. Work that still reads it then must be on the legacy default stream, or done.
    Raises ValueError when planes and format disagree.
    """

    planes: tuple[Any, ...]

    def __post_init__(self) -> None:
        expected = plane_shapes(self.format, self.width, self.height)
        if tuple(p.shape for p in self.planes) != expected:
            got = [p.shape for p in self.planes]
            raise ValueError(f"{self.format.name} {self.width}x{self.height} wants planes {expected}, got {got}")
        for p in self.planes:
            inner = tuple(prod(p.shape[i + 1 :]) for i in range(1, len(p.shape)))
            if p.strides[1:] != inner or (p.shape[0] > 1 and p.strides[0] < prod(p.shape[1:])):
                raise ValueError("samples inside a row must be contiguous and rows must not overlap")

    @classmethod
    def wrap(cls, image: object) -> DeviceFrame:
        """An (H, W, 3) uint8 BGR array in a GPU's memory (``__dlpack__`` or ``__cuda_array_interface__``) as a frame.

        Raises UsageError where it is something else.
        """
        array = DeviceArray.wrap(image)
        if len(array.shape) != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise UsageError(f"expected an (H, W, 3) uint8 array, got {array.shape}", "NV12 and I420: DeviceFrame")
        try:
            return cls((array,), PixelFormat.BGR24, ColorSpec(range=Range.FULL))
        except ValueError as error:
            raise UsageError(str(error), "make the array contiguous") from None
