# SPDX-License-Identifier: Apache-2.0
"""Frames without a container, into a pipe or a file: rawvideo and yuv4mpeg."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import suppress
from fractions import Fraction
from functools import cache
from io import FileIO
from pathlib import Path

import numpy as np
from av.video.reformatter import VideoReformatter

from crispstream.convert import converted
from crispstream.errors import ClosedPipeError, OutputError, UsageError
from crispstream.frame import Frame, PixelFormat
from crispstream.orientation import upright
from crispstream.sinks.partial import PartialFile
from crispstream.tags import VideoTags

STANDARD_OUTPUT = "standard output"
# VideoTags.chroma_location as yuv4mpeg names it; what it has no name for is called as FFmpeg calls it.
_SITES = {0: "420mpeg2 XYSCSS=420MPEG2", 1: "420mpeg2 XYSCSS=420MPEG2", 3: "420paldv XYSCSS=420PALDV"}
# How often a full pipe is looked at, and how long its reader may take nothing once the user wants to stop; seconds.
_TICK, _PATIENCE = 0.25, 1.0
_RANGES = {1: " XCOLORRANGE=LIMITED", 2: " XCOLORRANGE=FULL"}


@cache
def claim_standard_output() -> FileIO:
    """Standard output for frames alone: whatever else is printed there from now on goes to standard error.

    A pipe is opened anew, so that it does not block here and still does for others who hold it. Raises OutputError
    where it is closed and UsageError where it is a terminal.
    """
    if sys.__stdout__ is None:
        raise OutputError(f"{STANDARD_OUTPUT} is closed")
    if sys.__stdout__.isatty():
        raise UsageError(f"{STANDARD_OUTPUT} is a terminal", "send the frames on: add | ffplay -")
    sys.__stdout__.flush()
    pixels = -1
    if stat.S_ISFIFO(os.fstat(1).st_mode):
        with suppress(OSError):  # another user's, or no /proc
            pixels = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    pixels = os.dup(1) if pixels == -1 else pixels
    os.dup2(2, 1)
    return FileIO(pixels, "wb")


class RawSink:
    """Writes frames to ``path``, or to standard output where it is None.

    ``pixel_format``: rawvideo in that format; None: yuv4mpeg 4:2:0. ``rate`` stands in the yuv4mpeg header: neither
    form holds times. Frames are turned upright. Raises OutputError, and ClosedPipeError when nobody reads any more.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        rate: Fraction,
        pixel_format: PixelFormat | None = None,
        overwrite: bool = False,
    ) -> None:
        self.name = STANDARD_OUTPUT if path is None else str(path)
        self.encoder_name = "yuv4mpeg" if pixel_format is None else "rawvideo"
        self._partial = None if path is None else PartialFile(path, overwrite)
        self._file = claim_standard_output() if self._partial is None else FileIO(self._partial.temporary, "wb")
        if self._file.closed:
            raise OutputError(f"{STANDARD_OUTPUT} was closed by a run before this one")
        # A pipe that blocks and has room has it for this many bytes (pipe(7)).
        self._most = select.PIPE_BUF if self._partial is None and os.get_blocking(self._file.fileno()) else 1 << 20
        self._room = select.poll()
        self._room.register(self._file, select.POLLOUT)
        self._hurried = False
        self._format = pixel_format
        self._rate = rate
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._start: Fraction | None = None
        self._count = 0
        self._late = False
        self.warnings: list[str] = []
        self.skipped: list[str] = []

    def write(self, frame: Frame) -> None:
        """Write one frame. Raises OutputError, ClosedPipeError, and KeyboardInterrupt after ``hurry``."""
        turned = upright(frame)
        target = PixelFormat.I420 if self._format is None else self._format
        turned = converted(turned, target, self._reformatter)
        size = (turned.width, turned.height)
        if self._size is None:
            if self._format is None:
                self._send(_header(turned, self._rate))
            if turned is not frame and VideoTags.of(frame).display_matrix is not None:
                self.warnings.append("turned in its pixels: raw frames hold no rotation")
        elif size != self._size:
            raise OutputError(f"the frame size changes from {self._size} to {size}")
        self._size = size
        self._tell_times(frame)
        if self._format is None:
            self._send(b"FRAME\n")
        for plane in turned.planes:
            self._send(np.ascontiguousarray(plane).data)

    def hurry(self) -> None:
        """Give up where the reader takes nothing any more."""
        self._hurried = True

    def close(self, complete: bool = True) -> None:
        """Finish the file; standard output is closed, so that its reader sees the end."""
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"cannot write {self.name} ({error.strerror})") from error
        if self._partial is not None:
            self._partial.commit()

    def abort(self) -> None:
        """Remove the unfinished file; what went into a pipe is gone. Idempotent, without effect after ``close``."""
        with suppress(OSError):
            self._file.close()
        if self._partial is not None:
            self._partial.discard()

    def _tell_times(self, frame: Frame) -> None:
        """Warn once where a frame does not come when the rate says."""
        time = frame.seconds
        if time is None:
            return
        self._start = time if self._start is None else self._start
        if abs(time - self._start - self._count / self._rate) > 1 / self._rate and not self._late:
            self._late = True
            self.warnings.append(f"the frames do not come at {float(self._rate):.3f} a second: their times are lost")
        self._count += 1

    def _send(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        try:
            while view:
                self._wait()
                # None: somebody else has filled the pipe in the meantime.
                view = view[self._file.write(view[: self._most]) or 0 :]
        except BrokenPipeError as error:
            raise ClosedPipeError(f"{STANDARD_OUTPUT} was closed by its reader") from error
        except OSError as error:
            raise OutputError(f"cannot write {self.name} ({error.strerror})") from error

    def _wait(self) -> None:
        """Wait until something can be written."""
        looks = 0
        while not self._room.poll(1000 * _TICK):
            looks += self._hurried  # not seconds: a machine that was asleep froze the reader, too
            if looks * _TICK > _PATIENCE:
                raise KeyboardInterrupt


def _header(frame: Frame, rate: Fraction) -> bytes:
    """The first line of yuv4mpeg (yuv4mpeg(5); the X fields are FFmpeg's)."""
    tags = VideoTags.of(frame)
    aspect = tags.sample_aspect_ratio or Fraction(0)
    ratio = f"{aspect.numerator}:{aspect.denominator}" if aspect else "0:0"
    site = _SITES.get(tags.chroma_location, "420jpeg XYSCSS=420JPEG")
    size = f"W{frame.width} H{frame.height} F{rate.numerator}:{rate.denominator}"
    return f"YUV4MPEG2 {size} Ip A{ratio} C{site}{_RANGES.get(tags.range, '')}\n".encode("ascii")
