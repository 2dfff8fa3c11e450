# SPDX-License-Identifier: Apache-2.0
"""How close a picture is to the truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


def psnr(picture: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit codes, over all pixels and channels: 10 log10(255^2 / MSE)."""
    error = float(np.mean((picture.astype(np.float32) - truth.astype(np.float32)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
