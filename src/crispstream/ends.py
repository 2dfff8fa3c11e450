# SPDX-License-Identifier: Apache-2.0
"""Which source and which sink two paths mean, where they are not a folder of pictures."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from crispstream.cut import Cut
from crispstream.errors import InputError, UsageError
from crispstream.patterns import find_pictures, is_numbered, is_pattern, nth
from crispstream.sinks.pictures import PictureSink
from crispstream.sinks.raw import RawSink
from crispstream.sinks.remux import others
from crispstream.sinks.sequence import SequenceSink
from crispstream.sinks.video import VideoSink
from crispstream.sources.part import PartSource
from crispstream.sources.pictures import PICTURE_SUFFIXES, PictureSource
from crispstream.sources.raw import RawSource, raw_format, rawvideo
from crispstream.sources.video import VideoSource

PIPE = Path("-")
"""Standard input, or standard output."""

ODD = ("pad", "444")
_RATE = Fraction(25)

AnySource = VideoSource | PartSource | PictureSource | RawSource
AnySink = VideoSink | PictureSink | RawSink | SequenceSink


@dataclass(frozen=True, slots=True)
class Ends:
    """A source and its sink; ``is_film``: frames that follow one another; ``one_size``: the sink takes one size."""

    source: AnySource
    sink: AnySink
    is_film: bool
    one_size: bool


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for beside the two paths; see ``files.run``. Raises UsageError."""

    encoder: str | None = None
    crf: int | None = None
    speed: str = "veryfast"
    quality: int = 95
    overwrite: bool = False
    size: tuple[int, int] | None = None
    pixel_format: str | None = None
    rate: Fraction | None = None
    allow_8bit: bool = False
    odd: str = "pad"

    def __post_init__(self) -> None:
        if self.odd not in ODD:
            raise UsageError(f"unknown way '{self.odd}' with odd sizes", f"one of {', '.join(ODD)}")
        if self.pixel_format is not None:
            raw_format(self.pixel_format)
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise UsageError(f"{self.rate} is no frame rate", "frames a second, such as 25 or 30000/1001")


def is_one_file(src: Path) -> bool:
    """Whether the input is a file or folder that must exist, not a pipe or a pattern."""
    return src != PIPE and not is_pattern(src)


def open_ends(src: Path, dst: Path, wishes: Wishes, cut: Cut, cleanup: ExitStack) -> Ends:
    """Open the source, then the sink; ``cleanup`` closes the one and aborts the other.

    Raises InputError, OutputError and UsageError.
    """
    if wishes.pixel_format is not None and wishes.size is None and dst != PIPE:
        raise UsageError("--pixel-format is of raw frames", "give their --size, or write to -")
    to_film = dst == PIPE or not (is_numbered(dst) or dst.is_dir() or dst.suffix.lower() in (*PICTURE_SUFFIXES, ""))
    if is_pattern(src) or (src != PIPE and wishes.size is None and src.suffix.lower() in PICTURE_SUFFIXES):
        if cut != Cut():
            raise UsageError(f"{src} has no times", "--start and --end are for videos")
        return _pictures(src, dst, wishes, to_film, cleanup)
    return _film(src, dst, wishes, cut, cleanup)


def _pictures(src: Path, dst: Path, wishes: Wishes, to_film: bool, cleanup: ExitStack) -> Ends:
    if wishes.size is not None:
        raise UsageError("--size is for raw frames in a file or on -", "leave it out: pictures tell theirs")
    found, warnings = find_pictures(src) if is_pattern(src) else ({1: src}, [])
    unknown = next((p for p in found.values() if p.suffix.lower() not in PICTURE_SUFFIXES), None)
    if unknown is not None:
        raise InputError(f"{src} matches {unknown}, which is no picture", f"known: {', '.join(PICTURE_SUFFIXES)}")
    if to_film and is_pattern(src):  # a film of one picture would be a slip
        source = PictureSource(list(found.values()), film=True)
        source.warnings += warnings
        return Ends(source, _film_sink(dst, wishes, wishes.rate or _RATE, None, cleanup), True, True)
    if dst == PIPE:
        raise UsageError("one picture does not go to -", "name a file: out.png")
    if wishes.rate is not None:
        raise UsageError("--rate is for films", "leave it out, or write out.mp4")
    if is_pattern(src):
        targets = {path: _target(dst, number, path, len(found)) for number, path in found.items()}
    else:  # whose name may hold a %d of its own
        targets = {src: dst}
    twice = next((path for path, count in Counter(targets.values()).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"several pictures would become {twice}", "number them: out_%04d.png")
    for path in targets.values():
        if os.path.exists(path) and any(path.samefile(other) for other in found.values()):
            raise UsageError(f"the output {path} is an input", "choose another name")
    sink = PictureSink(targets, quality=wishes.quality, overwrite=wishes.overwrite)
    cleanup.callback(sink.abort)
    source = PictureSource(list(targets), keep_going=is_pattern(src))
    source.warnings += warnings
    return Ends(source, sink, False, False)


def _target(dst: Path, number: int, path: Path, count: int) -> Path:
    if is_numbered(dst):
        return nth(dst, number)
    if dst.is_dir():
        return dst / path.name
    if count > 1:
        if not dst.suffix:
            raise UsageError(f"the folder {dst} does not exist", f"mkdir -p '{dst}'")
        raise UsageError(f"{count} pictures do not go into {dst}", "give a folder, or number them: out_%04d.png")
    return dst


def _film(src: Path, dst: Path, wishes: Wishes, cut: Cut, cleanup: ExitStack) -> Ends:
    path = None if src == PIPE else src
    rate = None
    if path is None or wishes.size is not None or path.suffix.lower() == ".y4m":
        if cut != Cut():
            raise UsageError("--start and --end need a file with an index", "cut raw frames with ffmpeg -ss and -to")
        if wishes.size is not None:
            layout = rawvideo(wishes.size, wishes.pixel_format, wishes.rate or _RATE)
        else:
            layout, rate = None, wishes.rate
        raw = RawSource(path, layout)
        cleanup.callback(raw.close)
        source: AnySource = raw
        frames, film = raw.rate, None
    else:
        video = VideoSource(path, wishes.allow_8bit)
        cleanup.callback(video.close)
        source = video if cut == Cut() else PartSource(video, cut)
        frames, film, rate = video.rate, (path, video.stream_index), wishes.rate
    if rate is not None:
        raise UsageError("--rate is for what has none: raw frames with --size, and pictures", "leave it out")
    if dst == PIPE or dst.suffix.lower() not in PICTURE_SUFFIXES:
        return Ends(source, _film_sink(dst, wishes, frames, film, cleanup), True, True)
    if not is_numbered(dst):
        raise UsageError(f"a film does not go into the picture {dst}", "number the pictures: out_%04d.png")
    sink = SequenceSink(dst, quality=wishes.quality, overwrite=wishes.overwrite)
    cleanup.callback(sink.abort)
    if film is not None:
        sink.skipped += others(*film, "a picture")
    return Ends(source, sink, True, False)


def _film_sink(
    dst: Path, wishes: Wishes, rate: Fraction, film: tuple[Path, int] | None, cleanup: ExitStack
) -> VideoSink | RawSink:
    if dst != PIPE and dst.suffix.lower() != ".y4m":
        sink: VideoSink | RawSink = VideoSink(
            dst,
            copy_from=film,
            rate=rate,
            encoder=wishes.encoder,
            crf=wishes.crf,
            speed=wishes.speed,
            odd=wishes.odd,
            overwrite=wishes.overwrite,
        )
        cleanup.callback(sink.abort)
        return sink
    pixel_format = None if wishes.pixel_format is None or dst != PIPE else raw_format(wishes.pixel_format)
    sink = RawSink(None if dst == PIPE else dst, rate=rate, pixel_format=pixel_format, overwrite=wishes.overwrite)
    cleanup.callback(sink.abort)
    if film is not None:
        sink.skipped += others(*film, sink.encoder_name)
    return sink
