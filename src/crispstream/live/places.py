# SPDX-License-Identifier: Apache-2.0
"""Which source, and which sink, a text on the command line means. Libraries are loaded for what is used alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from crispstream.errors import InputError, OutputError, UsageError
from crispstream.live.addresses import NETWORK, check, masked
from crispstream.live.kinds import STANDARD, WINDOW, sink_kind, source_kind
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import LiveSink, LiveSource, Timeouts
from crispstream.sinks.names import has_place, keep
from crispstream.sinks.partial import PartialFile

_RATE = Fraction(25)
_FILM_SHOTS = 16
_SHOWN_SHOTS = 2


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
    (bits a second); of snapshots ``every`` (seconds); of standard output ``pixel_format``. ``rate``: frames a second
    that are expected, None for what the source says."""

    segment: float | None = None
    encoder: str | None = None
    crf: int | None = None
    speed: str = "veryfast"
    bitrate: int | None = None
    every: float = 10.0
    pixel_format: str | None = None
    overwrite: bool = False
    rate: Fraction | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Place:
    """A source: its ``name`` for people, ``make`` for each connection; of a file ``path``, and the ``rate`` it has."""

    name: str
    make: Callable[[], LiveSource]
    path: Path | None = None
    rate: Fraction | None = None


def source_of(text: str, wishes: SourceWishes) -> Place:
    """``-``, a camera's number or device, a URL, a GStreamer pipeline, or a file. Raises UsageError; InputError for a
    file that is missing or cannot be read."""
    name, timeouts, kind = masked(text), wishes.timeouts, source_kind(text)
    if not text:
        raise UsageError("the source is empty", "a camera's number, a URL, a pipeline, a file, or -")
    if kind == "input":
        from crispstream.sources.paced import StdinSource
        from crispstream.sources.raw import rawvideo

        # Without a size it is yuv4mpeg, which says all by itself: format and rate are then those of what is written.
        layout = None if wishes.size is None else rawvideo(wishes.size, wishes.pixel_format, wishes.rate or _RATE)
        return Place("standard input", lambda: StdinSource(layout, timeouts))
    if kind == "camera":
        from crispstream.sources.camera import CameraSource

        device: int | str = int(text) if text.isdigit() else text
        return Place(name, lambda: CameraSource(device, timeouts, wishes.size, wishes.rate, wishes.fourcc))
    if kind in ("rtsp", "stream"):
        from crispstream.sources.network import NetworkSource

        check(text)
        return Place(name, lambda: NetworkSource(text, timeouts, wishes.transport))
    if kind == "pipeline":
        from crispstream.sources.gstreamer import GStreamerSource

        return Place(name, lambda: GStreamerSource(text, timeouts))
    if "://" in text:
        raise UsageError(f"{name} is no address of a stream", f"one of {', '.join(f'{s}://' for s in NETWORK)}")
    if not os.path.exists(text):  # False, too, for a name that is too long
        raise InputError(f"{name} is no file", "a camera is a number or /dev/video0, a pipeline has ' ! ' in it")
    from crispstream.sources.paced import PacedSource
    from crispstream.sources.raw import RawSource
    from crispstream.sources.video import VideoSource

    path = Path(text)

    def film() -> VideoSource | RawSource:
        return RawSource(path) if path.suffix.lower() == ".y4m" else VideoSource(path)

    rate = None
    if not path.is_fifo():  # which can be opened once
        opened = film()
        rate = opened.rate
        opened.close()
    return Place(name, lambda: PacedSource(name, film, wishes.loop), path, rate)


def outlets_of(texts: Sequence[str], wishes: SinkWishes, source: Place) -> list[Outlet]:
    """``-``, ``window``, URLs, names of pictures (snapshots) or of films.

    What is wrong already now is raised now: UsageError for a wrong text or wish and a target that is given twice or is
    the source; OutputError for a picture that exists and a folder that does not or cannot be written.
    """
    if not all(texts):
        raise UsageError("a target is empty", "a film, a picture, a URL, window, or -")
    if source.path is not None:
        keep(source.path)
    targets = [os.path.realpath(text) if _is_file(text) else text for text in texts]
    for text, target in zip(texts, targets, strict=True):
        if targets.count(target) > 1:
            raise UsageError(f"the target {masked(text)} is given twice", "leave one of them out")
    return [_outlet(text, wishes, source) for text in texts]


def _is_file(text: str) -> bool:
    return text not in (STANDARD, WINDOW) and "://" not in text


def _outlet(text: str, wishes: SinkWishes, source: Place) -> Outlet:
    name, capacity, path, kind = masked(text), _FILM_SHOTS, Path(text), sink_kind(text)
    rate = wishes.rate or source.rate
    make: Callable[[], LiveSink]
    if _is_file(text):
        _check(path, source.path)
    if kind == "output":
        from crispstream.sinks.stdout import StdoutSink
        from crispstream.sources.raw import raw_format

        pixels = None if wishes.pixel_format is None else raw_format(wishes.pixel_format)
        name, make, capacity = "standard output", lambda: StdoutSink(rate, pixels), _SHOWN_SHOTS
    elif kind == "window":
        from crispstream.sinks.window import WindowSink

        make, capacity = WindowSink, _SHOWN_SHOTS
    elif kind == "push":
        from crispstream.sinks.push import PushSink

        check(text)
        make = lambda: PushSink(text, wishes.encoder or "h264", wishes.bitrate, rate, wishes.timeouts)  # noqa: E731
    elif "://" in text:
        raise UsageError(f"{name} is no address of a stream", f"one of {', '.join(f'{s}://' for s in NETWORK)}")
    elif kind == "picture":
        from crispstream.sinks.snapshots import SnapshotSink

        make, capacity = lambda: SnapshotSink(path, wishes.every, wishes.overwrite), _SHOWN_SHOTS
        if path.exists() and not has_place(path) and not wishes.overwrite:
            raise OutputError(f"{name} exists", "use --overwrite to replace it")
    else:
        make = _film(path, wishes, rate)
    make()  # what is wrong with the wishes shows now: no sink begins anything before its first shot
    if _is_file(text) and not has_place(path.parent):
        PartialFile(path, overwrite=True).discard()  # trying is the only test that knows about all disks
    return Outlet(name, make, capacity)


def _check(path: Path, source: Path | None) -> None:
    from crispstream.files import check_name

    check_name(path, OutputError)
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", "give the name of a film or a picture in it")
    if source is not None and path.exists() and path.samefile(source):
        raise UsageError(f"the target {path} is the source", "choose another name")


def _film(path: Path, wishes: SinkWishes, rate: Fraction | None) -> Callable[[], LiveSink]:
    from crispstream.sinks.segments import SegmentSink

    return lambda: SegmentSink(
        path, wishes.segment, wishes.encoder, wishes.crf, wishes.speed, overwrite=wishes.overwrite, rate=rate
    )
