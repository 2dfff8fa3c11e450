# SPDX-License-Identifier: Apache-2.0
"""How close a picture is to the truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Weight = npt.NDArray[np.floating]

SSIM_MARGIN = 5
"""Half of the Gaussian window: the similarity map is this much smaller than the picture on every side."""
_LEAST_ERROR = 1e-9
IDENTICAL = float(10 * np.log10(255**2 / _LEAST_ERROR))
"""dB, in place of infinity, which JSON lacks."""
_LUMA = (0.299, 0.587, 0.114)  # R, G, B (ITU-R BT.601)


def psnr(picture: Codes, truth: Codes, weight: Weight | None = None) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit codes (rounded or not), over all pixels and channels:
    10 log10(255^2 / MSE).

    Equal pictures have IDENTICAL. ``weight`` (H, W), at least 0, not all 0: how much each pixel of the (H, W, 3)
    pictures counts.
    """
    errors = (picture.astype(np.float32) - truth.astype(np.float32)) ** 2
    error = float(np.mean(errors)) if weight is None else float(np.average(errors.mean(2), weights=weight))
    return float(10 * np.log10(255**2 / max(error, _LEAST_ERROR)))


def _window(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Weighted mean by a Gaussian, sigma 1.5, 11x11, where the window lies inside the picture.
    taps = np.exp(-(np.arange(-SSIM_MARGIN, SSIM_MARGIN + 1) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    height, width = (n - 2 * SSIM_MARGIN for n in image.shape)
    rows = sum(tap * image[i : i + height] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps)), np.float64)


def ssim_map(picture: Picture, truth: Picture) -> npt.NDArray[np.float64]:
    """Structural similarity around each pixel, in [-1, 1], of two (H, W, 3) RGB pictures: (H - 10, W - 10).

    Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004: on luma (BT.601), 11x11 Gaussian window with sigma 1.5, K1 = 0.01,
    K2 = 0.03, range 255. Only whole windows count. Raises ValueError for pictures smaller than the window.
    """
    if picture.shape != truth.shape or min(picture.shape[:2]) <= 2 * SSIM_MARGIN:
        raise ValueError(f"cannot compare {picture.shape} with {truth.shape}: equal sizes of 11x11 or more are needed")
    x, y = (p.astype(np.float64) @ np.array(_LUMA) for p in (picture, truth))
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return np.asarray(top / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)), np.float64)


def ssim(picture: Picture, truth: Picture) -> float:
    """Mean of ``ssim_map``."""
    return float(ssim_map(picture, truth).mean())
