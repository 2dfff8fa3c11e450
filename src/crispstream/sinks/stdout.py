# SPDX-License-Identifier: Apache-2.0
"""A live stream into a pipe."""

from __future__ import annotations

from fractions import Fraction

from crispstream.errors import OutputError
from crispstream.frame import PixelFormat
from crispstream.live.protocol import EndOfSink, Shot
from crispstream.orientation import upright
from crispstream.sinks.rate import expected_rate
from crispstream.sinks.raw import STANDARD_OUTPUT, RawSink


class StdoutSink:
    """Writes what comes out of the engine to standard output, as yuv4mpeg or in ``pixel_format`` as rawvideo.

    ``rate`` stands in the yuv4mpeg header, None for what the first frame says; neither form holds times. A pipe has one
    size and is written once: with another size, or after an error, it ends.
    """

    name = STANDARD_OUTPUT

    def __init__(self, rate: Fraction | None, pixel_format: PixelFormat | None = None) -> None:
        self._rate = rate
        self._format = pixel_format
        self._raw: RawSink | None = None
        self._size = (0, 0)

    def write(self, shot: Shot) -> None:
        """Write one frame. Raises EndOfSink, UsageError on a terminal, ClosedPipeError where the reader has gone."""
        frame = upright(shot.after)
        size = frame.width, frame.height
        if self._raw is None:
            self._raw = RawSink(None, rate=self._rate or expected_rate(frame), pixel_format=self._format)
            self._size = size
        if size != self._size:
            change = f"{self._size[0]}x{self._size[1]} to {size[0]}x{size[1]}"
            raise EndOfSink(f"the frame size changes from {change}")
        try:
            self._raw.write(frame)
        except OutputError as error:
            raise EndOfSink(str(error), error.hint) from error

    def close(self) -> None:
        """Close standard output, so that its reader sees the end. Raises OutputError."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def abort(self) -> None:
        """Close standard output. Idempotent."""
        if self._raw is not None:
            self._raw.abort()
            self._raw = None
