# SPDX-License-Identifier: Apache-2.0
"""Frames without a container, from a pipe or a file: rawvideo, and yuv4mpeg, which says what it is."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from crispstream.convert import DIRECT, change_of, planes_of, to_direct
from crispstream.errors import EarlyEndError, InputError, UsageError
from crispstream.frame import MAX_SIDE, ColorSpec, Frame, PixelFormat, Plane, Range
from crispstream.tags import VideoTags

RAW_FORMATS = {
    "bgr24": PixelFormat.BGR24,
    "rgb24": PixelFormat.RGB24,
    "nv12": PixelFormat.NV12,
    "i420": PixelFormat.I420,
    "yuv420p": PixelFormat.I420,
}
"""What ``--pixel-format`` takes."""

STANDARD_INPUT = "standard input"
_MAGIC = b"YUV4MPEG2"
_LONGEST_LINE = 1024
# How long a pipe may be silent before the pipeline looks at signals.
_TICK = 0.25
# Chroma layouts of yuv4mpeg that are 8-bit 4:2:0, with their VideoTags.chroma_location (yuv4mpeg(5)).
_SITES = {"420": 2, "420jpeg": 2, "420mpeg2": 1, "420paldv": 3}
_OTHERS = {"411": "yuv411p", "422": "yuv422p", "444": "yuv444p", "444alpha": "yuva444p", "mono": "gray"}


@dataclass(frozen=True, slots=True)
class RawLayout:
    """One raw frame: FFmpeg's name of its pixel format, size, rate, tags (None for RGB)."""

    pixel_format: str
    width: int
    height: int
    rate: Fraction
    tags: VideoTags | None
    interlaced: bool = False


class RawSource:
    """The frames in ``path``, or on standard input where it is None, numbered in ticks of 1 / rate.

    With ``layout`` the bytes are rawvideo, one frame after the other; without it they are yuv4mpeg, whose first line is
    ``header`` where it was read before. Where nothing comes for a while, iteration gives None. ``warnings`` names an
    incomplete last frame and what was converted. ``layout`` and ``rate`` of yuv4mpeg in a FIFO are known with the first
    frame: iteration waits for its writer. Raises InputError and UsageError.
    """

    def __init__(self, path: Path | None, layout: RawLayout | None = None, header: bytes | None = None) -> None:
        self._name = STANDARD_INPUT if path is None else str(path)
        self._own = path is not None
        fifo = path is not None and path.is_fifo()
        # Who waits in open() for the writer of a FIFO cannot be stopped, and once it is there takes what is for others.
        waiting = os.O_NONBLOCK if fifo else 0
        self._file = _standard_input() if path is None else os.open(path, os.O_RDONLY | waiting)
        self._raw = layout is not None
        self.total: int | None = None
        self.warnings: list[str] = []
        self._reformatter = VideoReformatter()
        self._begun = False
        try:
            if layout is not None:
                self._begin(layout)
            elif header is not None or not fifo:
                self._begin(self._parse_header(_all_of(read_line(self._file)) if header is None else header))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Frame | None]:
        if not self._begun:
            self._begin(self._parse_header((yield from read_line(self._file))))
        number = 1
        while True:
            if not self._raw:
                marker = yield from read_line(self._file)
                if not marker:
                    break
                if not marker.startswith(b"FRAME") and not b"FRAME".startswith(marker):
                    raise EarlyEndError(
                        f"frame {number} of {self._name} does not begin with FRAME: what follows cannot be read"
                    )
            data = np.empty(self._bytes, np.uint8)
            got = yield from _fill(self._file, data)
            if number == 1 and self._raw and data[: len(_MAGIC)].tobytes() == _MAGIC:
                raise InputError(f"{self._name} is yuv4mpeg, not raw frames", "leave out --size: it says all by itself")
            if got < self._bytes:
                if got or not self._raw:
                    self._tell_partial(number, got)
                break
            yield self._frame(data, number - 1)
            number += 1

    def close(self) -> None:
        """Close the file; standard input stays open. Idempotent."""
        if self._own:
            os.close(self._file)
            self._own = False

    def _tell_partial(self, number: int, got: int) -> None:
        text = f"frame {number} of {self._name} is incomplete, {got} of {self._bytes} bytes"
        if number == 1:
            raise InputError(text, "check --size and --pixel-format" if self._raw else "")
        self.warnings.append(f"{text}: left out")

    def _begin(self, layout: RawLayout) -> None:
        self.layout, self.rate = layout, layout.rate
        try:
            self._rows = _rows(layout)
        except (av.FFmpegError, MemoryError) as error:  # FFmpeg draws the line at some 16000x16000
            size = f"{layout.width}x{layout.height}"
            raise InputError(
                f"{self._name} has frames of {size}: too large", "check the size, or scale it down"
            ) from error
        self._bytes = sum(rows * row for rows, row in self._rows)
        if self._own and self._raw:
            self.total = os.fstat(self._file).st_size // self._bytes
        change = change_of(layout.pixel_format)
        if change is not None:
            self.warnings.append(change)
        if layout.interlaced:
            self.warnings.append("the video is interlaced; deinterlace it first for a clean result")
        self._begun = True

    def _parse_header(self, line: bytes) -> RawLayout:
        if not line:
            raise InputError(f"{self._name} is empty")
        if not line.startswith(_MAGIC + b" ") or not line.endswith(b"\n"):
            raise InputError(
                f"{self._name} is not yuv4mpeg",
                "write it with ffmpeg -f yuv4mpegpipe, or describe raw frames with --size and --pixel-format",
            )
        return _parse(line.decode("ascii", "replace"), self._name)

    def _frame(self, data: Plane, number: int) -> Frame:
        layout = self.layout
        if layout.pixel_format in DIRECT:
            pixel_format = DIRECT[layout.pixel_format]
            planes = tuple(self._split(data, 2 if pixel_format is PixelFormat.NV12 else 1))
            if not pixel_format.is_yuv:
                planes = (planes[0].reshape(layout.height, layout.width, 3),)
        else:
            picture = VideoFrame(layout.width, layout.height, layout.pixel_format)
            for plane, samples in zip(picture.planes, self._split(data), strict=True):
                view = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                view[: samples.shape[0], : samples.shape[1]] = samples
            full = layout.tags is not None and layout.tags.range == 2
            picture = to_direct(picture, full, self._reformatter)
            pixel_format, planes = DIRECT[picture.format.name], planes_of(picture)
        color = ColorSpec(range=Range.FULL) if layout.tags is None else layout.tags.color(layout.height)
        info = {} if layout.tags is None else {"video_tags": layout.tags}
        return Frame(planes, pixel_format, color, number, 1 / layout.rate, 1, info=info)

    def _split(self, data: Plane, chroma_samples: int = 1) -> Iterator[Plane]:
        """Cut the bytes of a frame into planes; no copy."""
        start = 0
        for index, (rows, row_bytes) in enumerate(self._rows):
            plane = data[start : start + rows * row_bytes]
            start += rows * row_bytes
            shape = (rows, row_bytes // 2, 2) if index and chroma_samples == 2 else (rows, row_bytes)
            yield plane.reshape(shape)


def read_line(file: int) -> Generator[None, None, bytes]:
    """Read up to and with a line feed; what came where there is none. Gives None where nothing comes for a while."""
    line = bytearray()
    letter = np.empty(1, np.uint8)
    while len(line) < _LONGEST_LINE and not line.endswith(b"\n"):
        if not (yield from _fill(file, letter)):
            break
        line += letter.tobytes()
    return bytes(line)


def _all_of(reading: Generator[None, None, bytes]) -> bytes:
    """What ``read_line`` comes to, however long it takes."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            line: bytes = end.value
            return line


def _fill(file: int, data: Plane) -> Generator[None, None, int]:
    """Read until ``data`` is full or the input ends; how many bytes came."""
    view = data.data
    filled = 0
    incoming = select.poll()  # not select(), which knows 1024 descriptors
    incoming.register(file, select.POLLIN)
    while filled < len(view):
        if not incoming.poll(1000 * _TICK):
            yield None
            continue
        got = os.readv(file, [view[filled:]])
        if got == 0:
            break
        filled += got
    return filled


def rawvideo(size: tuple[int, int], pixel_format: str | None, rate: Fraction) -> RawLayout:
    """The layout that the user describes; YUV is taken as players take what is not tagged. Raises UsageError."""
    if pixel_format is None:
        raise UsageError("raw frames need a pixel format", f"--pixel-format, one of {', '.join(RAW_FORMATS)}")
    known = raw_format(pixel_format)
    name = "yuv420p" if known is PixelFormat.I420 else known.name.lower()
    return RawLayout(name, *size, rate, VideoTags(chroma_location=1) if known.is_yuv else None)


def raw_format(name: str) -> PixelFormat:
    """The pixel format of that name. Raises UsageError."""
    if name not in RAW_FORMATS:
        raise UsageError(f"unknown pixel format '{name}'", f"one of {', '.join(RAW_FORMATS)}")
    return RAW_FORMATS[name]


def _standard_input() -> int:
    if sys.__stdin__ is None:
        raise InputError(f"{STANDARD_INPUT} is closed")
    if sys.__stdin__.isatty():
        raise UsageError(
            f"{STANDARD_INPUT} is a terminal", "send frames: ffmpeg -i in.mp4 -f yuv4mpegpipe - | crispstream run - -"
        )
    return 0


def _rows(layout: RawLayout) -> list[tuple[int, int]]:
    """(rows, bytes a row) of every plane, without padding."""
    picture = VideoFrame(layout.width, layout.height, layout.pixel_format)
    bits = max(c.bits for c in picture.format.components)
    samples = {"rgb24": (3,), "bgr24": (3,), "nv12": (1, 2)}.get(layout.pixel_format, (1,) * 4)
    planes = zip(picture.planes, samples, strict=False)
    return [(plane.height, plane.width * n * ((bits + 7) // 8)) for plane, n in planes]


def _parse(header: str, name: str) -> RawLayout:
    """The layout that a yuv4mpeg header describes. Raises InputError."""
    fields = {part[0]: part[1:] for part in header.split()[1:] if part[0] != "X"}
    try:
        width, height = int(fields["W"]), int(fields["H"])
        rate = _ratio(fields.get("F", "25:1")) or Fraction(25)
        aspect = _ratio(fields.get("A", "0:0"))
    except (KeyError, ValueError) as error:
        raise InputError(f"the yuv4mpeg header of {name} is damaged: {header.strip()[:80]}") from error
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise InputError(f"{name} is {width}x{height}: a side may have 1 to {MAX_SIDE} pixels")
    chroma = fields.get("C", "420")
    deep = re.fullmatch(r"(420|422|444)p(9|10|12|14|16)", chroma)
    if chroma in _SITES:
        pixel_format = "yuv420p"
    elif chroma in _OTHERS:
        pixel_format = _OTHERS[chroma]
    elif deep:
        pixel_format = f"yuv{deep[1]}p{deep[2]}le"
    else:
        raise InputError(f"{name} has chroma layout {chroma[:20]}", "write it as 4:2:0: ffmpeg -pix_fmt yuv420p")
    tags = VideoTags(
        range=2 if "XCOLORRANGE=FULL" in header.split() else 1 if "XCOLORRANGE=LIMITED" in header.split() else 0,
        chroma_location=_SITES.get(chroma, 1),
        sample_aspect_ratio=aspect,
    )
    return RawLayout(pixel_format, width, height, rate, tags, fields.get("I", "p") not in ("p", "?"))


def _ratio(text: str) -> Fraction | None:
    """``A:B``; None where it is 0 or says unknown."""
    above, below = (int(part) for part in text.split(":"))
    return Fraction(above, below) if above > 0 and below > 0 else None
