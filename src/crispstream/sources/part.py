# SPDX-License-Identifier: Apache-2.0
"""A part of a film as if it were all there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain

from crispstream.cut import Cut
from crispstream.errors import InputError
from crispstream.frame import Frame
from crispstream.sources.video import VideoSource


class PartSource:
    """The frames of ``film`` whose times lie in ``cut``, counted from its first picture.

    With a start, times begin at 0. Every frame's ``info["cut"]`` says in the file's own clock what was cut, so that a
    sink can cut other streams to match. Raises InputError when no frame lies inside.
    """

    def __init__(self, film: VideoSource, cut: Cut) -> None:
        self._film = film
        self._cut = cut
        self.total: int | None = None
        if film.total is not None:
            first, last = round((cut.start or 0) * film.rate), film.total
            last = last if cut.end is None else min(last, round(cut.end * film.rate))
            self.total = max(0, last - first)

    @property
    def rate(self) -> Fraction:
        """Frames a second of the film."""
        return self._film.rate

    @property
    def warnings(self) -> list[str]:
        """Those of the film."""
        return self._film.warnings

    def __iter__(self) -> Iterator[Frame]:
        film, start, end = self._film, self._cut.start, self._cut.end
        begin = film.start + (start or 0)
        cut = Cut(None, None if end is None else film.start + end)
        shift = 0
        found = False
        for frame in self._from(begin) if start else iter(film):
            if cut.end is not None and _time(frame) >= cut.end:
                break
            if start is not None and _time(frame) < begin:
                continue
            if not found:
                found = True
                frame = replace(frame, discontinuity=False)
                if start is not None:
                    shift, cut = frame.pts or 0, Cut(_time(frame), cut.end)
            yield replace(frame, pts=(frame.pts or 0) - shift, info={**frame.info, "cut": cut})
        if not found:
            raise InputError(f"{film.path} has no picture between --start and --end", "look how long it is")

    def close(self) -> None:
        """Close the film. Idempotent."""
        self._film.close()

    def _from(self, begin: Fraction) -> Iterator[Frame]:
        """Frames from somewhere before ``begin`` on, as near as the file's index leads."""
        frames = iter(self._film)
        if self._film.seek(begin):
            first = next(frames, None)
            if first is not None and _time(first) <= begin:
                return chain((first,), frames)
            self._film.seek(self._film.start)  # it led too far
            frames = iter(self._film)
        return frames


def _time(frame: Frame) -> Fraction:
    return (frame.pts or 0) * (frame.time_base or Fraction(1))
