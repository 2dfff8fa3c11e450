# SPDX-License-Identifier: Apache-2.0
"""Training loss and validation gain over the steps, as a PNG."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from training.checkpoint import Progress
from training.dataset import Picture

WIDTH, HEIGHT = 800, 280
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 34, 30
INK, GRID, LINE = (40, 40, 40), (225, 225, 225), (180, 90, 20)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(title: str, points: list[tuple[int, float]], last: int) -> Picture:
    """One chart (280, 800, 3) BGR of (step, value) points; the axis runs from step 0 to ``last``."""
    chart = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    good = [(step, value) for step, value in points if np.isfinite(value)]
    values = [value for _, value in good] or [0.0]
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def x(step: float) -> int:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / max(last, 1))

    def y(value: float) -> int:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low))

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value, step = low + share * (high - low), round(share * last)
        cv2.line(chart, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), GRID)
        cv2.putText(chart, f"{value:.4g}", (6, y(value) + 4), FONT, 0.42, INK, 1, cv2.LINE_AA)
        cv2.putText(chart, str(step), (x(step) - 18, HEIGHT - 10), FONT, 0.42, INK, 1, cv2.LINE_AA)
    cv2.putText(chart, title, (LEFT, 20), FONT, 0.5, INK, 1, cv2.LINE_AA)
    corners = np.array([(x(step), y(value)) for step, value in good], np.int32).reshape(-1, 1, 2)
    cv2.polylines(chart, [corners], False, LINE, 2, cv2.LINE_AA)
    for step, value in good if len(good) <= 40 else []:
        cv2.circle(chart, (x(step), y(value)), 3, LINE, -1, cv2.LINE_AA)
    return chart


def save_curves(path: Path, progress: Progress) -> None:
    """Write both charts, one above the other, to ``path`` (PNG)."""
    charts = [
        draw(f"{progress.preset}: training loss (moving mean)", progress.losses, progress.step),
        draw(f"{progress.preset}: validation gain, dB over the blurred input", progress.gains, progress.step),
    ]
    cv2.imwrite(str(path), np.vstack(charts))
