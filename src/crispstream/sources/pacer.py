# SPDX-License-Identifier: Apache-2.0
"""When the frames of something recorded are due, as if it happened now."""

from __future__ import annotations

import time
from fractions import Fraction

from crispstream.live.protocol import POLL_SECONDS

_LONGEST = 1.0
"""Seconds. A longer gap between two frames is no part of the film, and who is later than that is not caught up with."""


class Pacer:
    """Moments of ``time.monotonic()`` for presentation times.

    Every moment is counted from one anchor, so that errors do not add up. The anchor is set anew where times go back or
    leap, and where whoever takes the frames fell behind by more than a second.
    """

    def __init__(self) -> None:
        self._anchor: tuple[float, Fraction] | None = None
        self._last = Fraction(0)

    def due(self, seconds: Fraction) -> float:
        """When the frame with this presentation time is due. Asked once a frame, in order."""
        now = time.monotonic()
        step = seconds - self._last
        self._last = seconds
        if self._anchor is not None and 0 <= step <= _LONGEST:
            moment = self._anchor[0] + float(seconds - self._anchor[1])
            if now - moment <= _LONGEST:
                return moment
        self._anchor = (now, seconds)
        return now


def wait_until(moment: float) -> bool:
    """Sleep until ``moment`` of ``time.monotonic()``, POLL_SECONDS at most; whether it has come."""
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(min(left, POLL_SECONDS))
    return left <= POLL_SECONDS
