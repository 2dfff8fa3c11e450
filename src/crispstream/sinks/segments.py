# SPDX-License-Identifier: Apache-2.0
"""A live stream into video files, a new one every so often."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from crispstream.errors import UsageError
from crispstream.frame import Frame
from crispstream.live.protocol import Shot
from crispstream.sinks.encoders import choose
from crispstream.sinks.names import Names
from crispstream.sinks.rate import expected_rate
from crispstream.sinks.video import VideoSink

# Every container and encoder here takes milliseconds; the times of cameras are not better.
_CLOCK = Fraction(1, 1000)
_DAY = 86_400

_logger = logging.getLogger("crispstream.live")


class SegmentSink:
    """Writes what comes out of the engine to ``path``, or to a new file for every ``segment_seconds`` of it.

    Names: see ``Names``; every file appears whole at its end. A file ends where the wall clock's time of day is a
    multiple of the period, or where size, format or colour change; its clock starts at 0 and counts milliseconds of
    capture time. ``rate``: frames a second, for the rate control and for frames that do not say how long they last,
    None for what the first frame says; ``encoder``, ``crf`` and ``speed``: see VideoSink. ``unfinished``: shots in the
    open file, which ``abort`` removes. Raises UsageError.
    """

    def __init__(
        self,
        path: Path,
        segment_seconds: float | None = None,
        encoder: str | None = None,
        crf: int | None = None,
        speed: str = "veryfast",
        overwrite: bool = False,
        rate: Fraction | None = None,
    ) -> None:
        choose(path, encoder)[1].options(crf, speed)
        if segment_seconds is not None and not segment_seconds >= 1:
            raise UsageError(f"a segment of {segment_seconds} s is too short", "use --segment 10min")
        self.name = str(path)
        self._names = Names(path, series=segment_seconds is not None, overwrite=overwrite)
        self._period = segment_seconds
        self._encoder, self._crf, self._speed = encoder, crf, speed
        self._overwrite = overwrite
        self._rate = rate
        self._video: VideoSink | None = None
        self._path = path
        self._layout: Hashable = None
        self._start = self._end = 0.0
        self._last = -1
        self.unfinished = 0

    def write(self, shot: Shot) -> None:
        """Encode one frame, into another file where it is time for one. Raises OutputError."""
        frame = shot.after
        layout = _layout(frame)
        if self._video is not None and (layout != self._layout or shot.captured >= self._end):
            self.close()
        if self._video is None:
            self._video = self._begin(shot.captured, self._rate or expected_rate(frame))
            self._layout = layout
        self._last = max(self._last + 1, round((shot.captured - self._start) / _CLOCK))
        # Players show the last picture for so long; where it does not say, the rate does.
        duration = round(1 / (expected_rate(frame) * _CLOCK)) if frame.duration else None
        self._video.write(replace(frame, pts=self._last, time_base=_CLOCK, duration=duration))
        self.unfinished += 1

    def close(self) -> None:
        """Finish the open file and give it its name. Raises OutputError; finished files stay."""
        if self._video is None:
            return
        self._video.close()
        self._video, self.unfinished = None, 0
        self._names.finished(self._path)
        _logger.info("wrote %s", self._path)

    def abort(self) -> None:
        """Remove the unfinished file; finished ones stay. Idempotent, and without effect after ``close``."""
        if self._video is not None:
            self._video.abort()
            self._video, self.unfinished = None, 0

    def _begin(self, captured: float, rate: Fraction) -> VideoSink:
        wall = time.time() - (time.monotonic() - captured)
        self._path = self._names.next(wall)
        self._start, self._last = captured, -1
        self._end = float("inf") if self._period is None else captured + remaining(self._period, wall)
        return VideoSink(
            self._path,
            rate=rate,
            encoder=self._encoder,
            crf=self._crf,
            speed=self._speed,
            live=True,
            overwrite=self._overwrite,
        )


def remaining(period: float, wall: float) -> float:
    """Seconds from ``wall`` (seconds since 1970) to a local time of day that is a multiple of ``period``.

    Midnight is one, too, where the day is no multiple. Between half and one and a half periods: a clock that was set
    between two files makes no stump of one. Periods of more than a day are counted from 1970 on.
    """
    left = period - (wall + time.localtime(wall).tm_gmtoff) % period
    if period <= _DAY:
        clock = time.localtime(wall)
        since = 3600 * clock.tm_hour + 60 * clock.tm_min + clock.tm_sec + wall % 1
        left = min(period - since % period, _DAY - since)
    return left if left >= period / 2 else left + period


def _layout(frame: Frame) -> Hashable:
    return frame.width, frame.height, frame.format, frame.color, frame.info.get("video_tags")
