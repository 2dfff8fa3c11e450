# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next try."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 3.0
"""Short enough that a camera that comes back is seen again within 5 s, its connection included."""


class Backoff:
    """Doubles from FIRST_SECONDS to LONGEST_SECONDS; jitter takes up to half away, so that many streams that lost the
    same server do not come back in step."""

    def __init__(self, longest: float = LONGEST_SECONDS) -> None:
        self._longest = longest
        self._next = FIRST_SECONDS

    def next(self) -> float:
        """Seconds to wait now."""
        seconds = self._next
        self._next = min(2 * seconds, self._longest)
        return seconds * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: begin with the shortest wait next time."""
        self._next = FIRST_SECONDS
