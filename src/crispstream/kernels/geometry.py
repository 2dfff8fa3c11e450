# SPDX-License-Identifier: Apache-2.0
"""The network's view of a frame: padded size, space-to-depth factor, map stride."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of every network tensor for one frame size; what ``crispstream_geometry`` is in C.

    ``pack`` is the space-to-depth factor s, ``map_stride`` the pixels per cell of the head's map. The padded size is
    the frame's, rounded up on the right and at the bottom to the preset's multiple.
    """

    width: int
    height: int
    pack: int
    padded_width: int
    padded_height: int
    map_stride: int

    @classmethod
    def for_size(cls, width: int, height: int, *, pack: int, multiple: int, map_stride: int) -> Geometry:
        """Geometry of a ``width`` x ``height`` frame. Raises ValueError where the numbers do not fit together."""
        if min(width, height, pack, multiple, map_stride) < 1:
            raise ValueError("sizes are positive")
        if multiple % pack or multiple % map_stride:
            raise ValueError(f"multiple {multiple} must be divisible by pack {pack} and map stride {map_stride}")
        return cls(width, height, pack, -(-width // multiple) * multiple, -(-height // multiple) * multiple, map_stride)

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """Shape of the packed input and of each residual: (1, 3 s^2, H / s, W / s)."""
        return (1, 3 * self.pack**2, self.padded_height // self.pack, self.padded_width // self.pack)

    @property
    def head_shape(self) -> tuple[int, int, int, int]:
        """Shape of the head: (1, 2, H / map_stride, W / map_stride); channel 0 person mask, 1 blur gate."""
        return (1, 2, self.padded_height // self.map_stride, self.padded_width // self.map_stride)
