# SPDX-License-Identifier: Apache-2.0
"""A part of a film, from one time to another, and what that makes of everything else in its file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from crispstream.errors import UsageError

_INTERLEAVED = 10
"""Seconds by which the packets of one stream may lie behind those of another in a file."""


def parse_time(text: str) -> Fraction:
    """Seconds from "12.5", "1:02.5" or "1:00:02.5". Raises UsageError."""
    # Twelve digits are enough for any film; Python itself refuses to read some thousands.
    match = re.fullmatch(r"(?a:(?:(?:(\d{1,12}):)?([0-5]?\d):)?(\d{1,12}(?:\.\d{1,30})?|\.\d{1,30}))", text)
    if match is None or (match[2] is not None and Fraction(match[3]) >= 60):
        raise UsageError(f"'{text}' is not a time", "seconds or H:MM:SS, such as 12.5 or 1:02.5")
    return 3600 * int(match[1] or 0) + 60 * int(match[2] or 0) + Fraction(match[3])


@dataclass(frozen=True, slots=True)
class Cut:
    """From ``start`` up to, not including, ``end``, in seconds; None where nothing is cut off. In a file's own clock
    both may lie below 0."""

    start: Fraction | None = None
    end: Fraction | None = None

    @classmethod
    def between(cls, start: str | float | None, end: str | float | None) -> Cut:
        """The part between two times as ``parse_time`` reads them, None for begin or end.

        Raises UsageError, too, where nothing lies between the two.
        """
        cut = cls(*(None if time is None else parse_time(str(time)) for time in (start, end)))
        if cut.end is not None and cut.end <= (cut.start or 0):
            raise UsageError("--end does not lie after --start", "give two times of the input, the later one as --end")
        return cut

    def is_over(self, packet: Any) -> bool:
        """Whether neither this packet nor what follows it in the file lies before the end."""
        if self.end is None or packet.dts is None:
            return False
        return bool(packet.dts * packet.time_base > self.end + _INTERLEAVED)

    def take(self, packet: Any) -> bool:
        """Whether a packet lies inside; if it does, its times are moved so that ``start`` becomes 0.

        A subtitle that is on the screen at either end is shortened. A packet of sound is kept or left out as a whole.
        """
        if packet.pts is None:
            return True
        base, length = packet.time_base, packet.duration or 0
        shift = round((self.start or 0) / base)
        end = None if self.end is None else round(self.end / base)
        is_text = packet.stream.type == "subtitle"
        if packet.pts < shift and self.start is not None:
            late = shift - packet.pts
            if not is_text or length <= late:
                return False
            packet.pts, packet.dts, length = shift, shift, length - late
        if end is not None and packet.pts >= end:
            return False
        if is_text and length:
            packet.duration = length if end is None else min(length, end - packet.pts)
        packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        return True

    def chapters(self, chapters: list[Any]) -> list[Any]:
        """The chapters that reach into the cut, as PyAV's dictionaries, moved and shortened like packets."""
        kept = []
        for chapter in chapters:
            base = chapter["time_base"]
            shift = round((self.start or 0) / base)
            end = chapter["end"] if self.end is None else min(chapter["end"], round(self.end / base))
            start = chapter["start"] if self.start is None else max(chapter["start"], shift)
            if start < end:
                kept.append({**chapter, "start": start - shift, "end": end - shift})
        return kept
