# SPDX-License-Identifier: Apache-2.0
"""Which source, and which sink, a text on the command line means. Libraries are loaded for what is used alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from crispstream.errors import UsageError
from crispstream.live.addresses import NETWORK, masked, scheme
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import LiveSink, LiveSource, Timeouts

STANDARD = "-"
WINDOW = "window"
_RATE = Fraction(25)
_FILM_SHOTS = 16
_SHOWN_SHOTS = 2
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class SourceWishes:
    """Of cameras ``size``, ``rate`` and ``fourcc``; of raw frames ``size``, ``rate`` and ``pixel_format``; of RTSP
    ``transport``; of files ``loop``."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    size: tuple[int, int] | None = None
    rate: Fraction | None = None
    fourcc: str | None = None
    pixel_format: str | None = None
    transport: str = "tcp"
    loop: bool = False


@dataclass(frozen=True, slots=True)
class SinkWishes:
    """Of films ``segment`` (seconds), ``encoder``, ``crf``, ``speed``; of pushed streams ``encoder`` and ``bitrate``
    (bits a second); of snapshots ``every`` (seconds) and ``quality``; of standard output ``pixel_format``."""

    segment: float | None = None
    encoder: str | None = None
    crf: int | None = None
    speed: str = "veryfast"
    bitrate: int | None = None
    every: float = 10.0
    quality: int = 95
    pixel_format: str | None = None
    overwrite: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Place:
    """A source: its ``name`` for people, ``make`` for each connection."""

    name: str
    make: Callable[[], LiveSource]


def source_of(text: str, wishes: SourceWishes) -> Place:
    """``-``, a camera's number or device, a URL, a GStreamer pipeline, or a file. Raises UsageError."""
    name, timeouts = masked(text), wishes.timeouts
    if text == STANDARD:
        from crispstream.sources.paced import StdinSource
        from crispstream.sources.raw import rawvideo

        if wishes.size is None and (wishes.pixel_format or wishes.rate):
            raise UsageError("raw frames need their size", "add --size WIDTHxHEIGHT; yuv4mpeg says all by itself")
        layout = None if wishes.size is None else rawvideo(wishes.size, wishes.pixel_format, wishes.rate or _RATE)
        return Place("standard input", lambda: StdinSource(layout, timeouts))
    if re.fullmatch(r"\d{1,3}|/dev/.+", text):
        from crispstream.sources.camera import CameraSource

        device: int | str = int(text) if text.isdigit() else text
        return Place(name, lambda: CameraSource(device, timeouts, wishes.size, wishes.rate, wishes.fourcc))
    if scheme(text) is not None:
        from crispstream.sources.network import NetworkSource

        return Place(name, lambda: NetworkSource(text, timeouts, wishes.transport))
    if re.search(r"\s!\s", text):
        from crispstream.sources.gstreamer import GStreamerSource

        return Place(name, lambda: GStreamerSource(text, timeouts))
    if "://" in text:
        raise UsageError(f"{name} is no address of a stream", f"one of {', '.join(f'{s}://' for s in NETWORK)}")
    if not Path(text).exists():
        raise UsageError(f"{name} is no file", "a camera is a number or /dev/video0, a pipeline has ' ! ' in it")
    from crispstream.sources.paced import PacedSource
    from crispstream.sources.raw import RawSource
    from crispstream.sources.video import VideoSource

    def film() -> VideoSource | RawSource:
        path = Path(text)
        return RawSource(path) if path.suffix.lower() == ".y4m" else VideoSource(path)

    return Place(name, lambda: PacedSource(name, film, wishes.loop))


def outlet_of(text: str, wishes: SinkWishes, rate: Fraction) -> Outlet:
    """``-``, ``window``, a URL, a picture's name (snapshots) or a film's. ``rate``: frames a second that are expected.

    Raises UsageError and OutputError for what is wrong already now.
    """
    name, capacity = masked(text), _FILM_SHOTS
    make: Callable[[], LiveSink]
    if text == STANDARD:
        from crispstream.sinks.stdout import StdoutSink
        from crispstream.sources.raw import raw_format

        pixels = None if wishes.pixel_format is None else raw_format(wishes.pixel_format)
        name, make, capacity = "standard output", lambda: StdoutSink(rate, pixels), _SHOWN_SHOTS
    elif text == WINDOW:
        from crispstream.sinks.window import WindowSink

        make, capacity = WindowSink, _SHOWN_SHOTS
    elif scheme(text) is not None:
        from crispstream.sinks.push import PushSink

        make = lambda: PushSink(text, wishes.encoder or "h264", wishes.bitrate, rate, wishes.timeouts)  # noqa: E731
    elif "://" in text:
        raise UsageError(f"{name} is no address of a stream", f"one of {', '.join(f'{s}://' for s in NETWORK)}")
    elif Path(text).suffix.lower() in _PICTURES:
        from crispstream.sinks.snapshots import SnapshotSink

        make, capacity = lambda: SnapshotSink(Path(text), wishes.every, wishes.quality), _SHOWN_SHOTS
    else:
        make = _film(Path(text), wishes, rate)
    return Outlet(name, make, capacity)


def _film(path: Path, wishes: SinkWishes, rate: Fraction) -> Callable[[], LiveSink]:
    from crispstream.sinks.segments import SegmentSink

    def make() -> LiveSink:
        return SegmentSink(
            path, wishes.segment, wishes.encoder, wishes.crf, wishes.speed, overwrite=wishes.overwrite, rate=rate
        )

    make()  # what is wrong with the name or the encoder shows now
    return make
