# SPDX-License-Identifier: Apache-2.0
"""How many frames a second a live stream will have, before it has had them."""

from __future__ import annotations

from fractions import Fraction

from crispstream.frame import Frame

_USUAL = Fraction(25)
_SLOWEST, _FASTEST = Fraction(1, 60), 1000


def expected_rate(frame: Frame) -> Fraction:
    """Frames a second as the frame's own duration says; 25 where it has none, or one that no stream has."""
    if not frame.duration or not frame.time_base:
        return _USUAL
    rate = 1 / (frame.duration * frame.time_base)
    return rate if _SLOWEST <= rate <= _FASTEST else _USUAL
