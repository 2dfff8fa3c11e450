# SPDX-License-Identifier: Apache-2.0
"""Before, after and truth side by side, with the most blurred places enlarged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crispstream.metrics import psnr
from crispstream.sheet import before_after, mask_overlay
from training.dataset import Picture


def busiest_squares(blurred: Picture, truth: Picture, count: int = 2) -> list[tuple[int, int, int]]:
    """``count`` squares (x, y, side in pixels) that do not overlap and where blurred and truth differ most."""
    side = min(truth.shape[:2]) // 4
    error = ((blurred.astype(np.float32) - truth.astype(np.float32)) ** 2).mean(2)
    total = cv2.boxFilter(error, -1, (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    total = total[: error.shape[0] - side + 1, : error.shape[1] - side + 1].copy()
    squares = []
    for _ in range(count):
        y, x = (int(i) for i in np.unravel_index(np.argmax(total), total.shape))
        squares.append((x, y, side))
        total[max(y - side + 1, 0) : y + side, max(x - side + 1, 0) : x + side] = -1
    return squares


def write_sheet(
    path: Path, blurred: Picture, restored: Picture, truth: Picture, mask: npt.NDArray[np.float32] | None = None
) -> None:
    """JPEG of the three (H, W, 3) pictures, with PSNR, and what ``mask`` (h, w) the network saw as a person."""
    pictures = {
        f"blurred {psnr(blurred, truth):.2f} dB": blurred,
        f"restored {psnr(restored, truth):.2f} dB": restored,
        "truth": truth,
    }
    if mask is not None:
        pictures["predicted mask"] = np.asarray(mask_overlay(blurred, mask))
    sheet = before_after(pictures, busiest_squares(blurred, truth))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.convert("RGB").save(path, quality=92)
