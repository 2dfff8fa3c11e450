# SPDX-License-Identifier: Apache-2.0
"""What changes over the steps: the learning rate (warm-up, cosine) and the size of the crops (small first)."""

from __future__ import annotations

import math
from typing import NamedTuple

STAGES = ((0.0, 0.5), (0.35, 0.75), (0.7, 1.0))
"""(share of the steps from which on, share of the full crop). Small crops in larger batches learn edges sooner."""

WARM_UP_STEPS = 200
LAST_RATE = 0.01
CELL = 32
"""Crops are multiples of this many pixels: the largest padding multiple of a preset."""


class Shape(NamedTuple):
    """``crops`` of ``size`` pixels a side."""

    size: int
    crops: int


def shape_at(step: int, total: int, full: Shape) -> Shape:
    """Crops at ``step`` of ``total``; ``full`` is the last stage. Pixels per step stay about constant."""
    share = max(share for start, share in STAGES if step >= start * total)
    size = max(CELL, round(full.size * share / CELL) * CELL)
    return Shape(size, max(1, round(full.crops * (full.size / size) ** 2)))


def rate_at(step: int, total: int, rate: float) -> float:
    """Learning rate: linear warm-up, then a cosine from ``rate`` to a hundredth of it at ``total``."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    return rate * warm * (LAST_RATE + (1 - LAST_RATE) * cosine)
