# SPDX-License-Identifier: Apache-2.0
"""What has been done with frames so far."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stats:
    """What a Deblurrer has done. ``seconds`` per stage, summed; ``variants`` counts frames per gating variant;
    ``non_finite`` residual values that were dropped (each a pixel channel left as it was); ``scene_cuts`` that streams
    found and started afresh at."""

    frames: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    variants: Counter[str] = field(default_factory=Counter)
    non_finite: int = 0
    scene_cuts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; stage times as mean milliseconds per frame."""
        per_frame = {k: round(1000 * v / self.frames, 3) for k, v in self.seconds.items()} if self.frames else {}
        return {
            "frames": self.frames,
            "stage_ms": per_frame,
            "variants": dict(self.variants),
            "non_finite": self.non_finite,
            "scene_cuts": self.scene_cuts,
        }
