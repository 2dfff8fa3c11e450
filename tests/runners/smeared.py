# SPDX-License-Identifier: Apache-2.0
"""A frame that the network takes for motion."""

from __future__ import annotations

import numpy as np

from crispstream.frame import ColorSpec, Frame, PixelFormat, plane_shapes


def smeared(pixel_format: PixelFormat, size: tuple[int, int], seed: int, color: ColorSpec) -> Frame:
    """Blocks of 12 samples, smeared sideways by 9, in every plane; ``size`` is (width, height), ``pts`` the seed."""
    rng = np.random.default_rng(seed)
    planes = []
    for shape in plane_shapes(pixel_format, *size):
        coarse = rng.integers(0, 256, (-(-shape[0] // 12), -(-shape[1] // 12), *shape[2:]))
        blocks = coarse.repeat(12, 0).repeat(12, 1)[: shape[0], : shape[1]]
        planes.append(np.mean([np.roll(blocks, d, 1) for d in range(-4, 5)], 0).astype(np.uint8))
    return Frame(tuple(planes), pixel_format, color, pts=seed)
