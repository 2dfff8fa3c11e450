# SPDX-License-Identifier: Apache-2.0
"""Which encoder writes into which container, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crispstream.errors import OutputError, UsageError
from crispstream.frame import PixelFormat
from crispstream.threads import cpu_quota

# From fastest to best; the names are x264's and every encoder takes them.
SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")

# FFmpeg's muxer and the encoders that common players accept in it, the default first.
_CONTAINERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    ".mp4": ("mp4", ("h264", "hevc", "vp9", "mpeg4")),
    ".m4v": ("mp4", ("h264", "hevc", "mpeg4")),
    ".mov": ("mov", ("h264", "hevc", "mpeg4")),
    ".mkv": ("matroska", ("h264", "hevc", "vp9", "ffv1", "mpeg4")),
    ".webm": ("webm", ("vp9",)),
    ".ts": ("mpegts", ("h264", "hevc", "mpeg4")),
}


def _x26x(quality: int, speed: int) -> dict[str, str]:
    return {"crf": str(quality), "preset": SPEEDS[speed]}


def _x265(quality: int, speed: int) -> dict[str, str]:
    # x265 writes to stderr on its own.
    return {**_x26x(quality, speed), "x265-params": "log-level=error"}


def _vp9(quality: int, speed: int) -> dict[str, str]:
    steps = len(SPEEDS) - 1 - speed
    deadline = "realtime" if steps > 5 else "good"
    return {"crf": str(quality), "deadline": deadline, "cpu-used": str(steps), "row-mt": "1"}


def _ffv1(quality: int, speed: int) -> dict[str, str]:
    return {"level": "3"}


def _mpeg4(quality: int, speed: int) -> dict[str, str]:
    scale = str(max(1, quality))  # a quantiser scale of 0 does not exist
    return {"qmin": scale, "qmax": scale}


@dataclass(frozen=True, slots=True)
class Encoder:
    """A video encoder. Quality runs from 0 (best) to ``worst``; ``worst`` 0 means lossless, without a choice.

    ``even_only``: 4:2:0 needs even sizes, so odd ones are written as 4:4:4. ``smallest``: width and height it takes.
    """

    name: str
    codec: str
    quality: int
    worst: int
    even_only: bool
    smallest: int
    _options: Callable[[int, int], dict[str, str]]

    def options(self, quality: int | None, speed: str) -> dict[str, str]:
        """FFmpeg options. Raises UsageError on a quality or speed that the encoder does not have."""
        if speed not in SPEEDS:
            raise UsageError(f"unknown speed {speed!r}", f"one of {', '.join(SPEEDS)}")
        if quality is not None and not 0 <= quality <= self.worst:
            known = f"0 (best) to {self.worst}" if self.worst else "no choice: it is lossless"
            raise UsageError(f"crf {quality} is outside what {self.name} has: {known}")
        return self._options(self.quality if quality is None else quality, SPEEDS.index(speed))

    def pixel_format(self, frame_format: PixelFormat, width: int, height: int) -> str:
        """FFmpeg name of the format that is encoded. Raises OutputError on a size that the encoder does not take."""
        if min(width, height) < self.smallest:
            raise OutputError(
                f"{self.name} takes frames from {self.smallest}x{self.smallest} up, not {width}x{height}",
                "try --encoder h264",
            )
        if self.name == "ffv1" and not frame_format.is_yuv:
            return "bgr0"
        return "yuv444p" if self.even_only and (width % 2 or height % 2) else "yuv420p"


_ENCODERS = {
    e.name: e
    for e in (
        Encoder("h264", "libx264", 18, 51, True, 1, _x26x),
        # x265 corrupts memory on some frames of a few dozen rows.
        Encoder("hevc", "libx265", 20, 51, True, 64, _x265),
        Encoder("vp9", "libvpx-vp9", 24, 63, False, 1, _vp9),
        Encoder("ffv1", "ffv1", 0, 0, False, 1, _ffv1),
        Encoder("mpeg4", "mpeg4", 3, 31, False, 1, _mpeg4),
    )
}


def choose(path: Path, encoder: str | None) -> tuple[str, Encoder]:
    """FFmpeg's muxer name for ``path`` and the encoder asked for, or the container's default. Raises UsageError."""
    suffix = path.suffix.lower()
    if suffix not in _CONTAINERS:
        raise UsageError(
            f"cannot write video as {suffix or 'a file without a suffix'}", f"use {', '.join(_CONTAINERS)}"
        )
    container, names = _CONTAINERS[suffix]
    name = encoder or names[0]
    if name not in _ENCODERS:
        raise UsageError(f"unknown encoder {name!r}", f"one of {', '.join(_ENCODERS)}")
    if name not in names:
        raise UsageError(f"{suffix} does not hold {name}", f"for {suffix} use {', '.join(names)}")
    return container, _ENCODERS[name]


def encoder_threads() -> int:
    """Half of the cores: the network needs the others."""
    return max(1, min(8, cpu_quota() // 2))
