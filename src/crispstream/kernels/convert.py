# SPDX-License-Identifier: Apache-2.0
"""From one pixel format or colour to another: the blend with nothing to blend."""

from __future__ import annotations

import numpy as np

from crispstream.frame import Frame
from crispstream.kernels.bindings import blend
from crispstream.kernels.geometry import Geometry


def convert(frame: Frame, out: Frame) -> None:
    """Write ``frame`` into ``out``, of the same size and any format and colour. Raises ValueError like ``blend``."""
    geometry = Geometry.for_size(frame.width, frame.height, pack=1, multiple=16, map_stride=16)
    blend(frame, geometry, np.zeros(geometry.head_shape, np.float32), None, None, out)
