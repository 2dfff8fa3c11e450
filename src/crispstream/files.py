# SPDX-License-Identifier: Apache-2.0
"""Files in, files out: what ``crispstream.run`` makes of two paths."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from crispstream.cut import Cut
from crispstream.ends import PIPE, Ends, Wishes, is_one_file, open_ends
from crispstream.errors import CrispStreamError, InputError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.one_size import OneSizeSource
from crispstream.pipeline import Pending, Processor, run_pipeline
from crispstream.progress import make_progress
from crispstream.report import RunReport
from crispstream.sinks.partial import sweep
from crispstream.sinks.pictures import PictureSink
from crispstream.sources.pictures import PICTURE_SUFFIXES, PictureSource
from crispstream.sources.video import VIDEO_SUFFIXES

_FOR_FILMS = ("encoder", "crf", "speed", "size", "pixel_format", "rate", "allow_8bit", "odd")


class FrameDeblurrer(Protocol):
    """What ``run`` needs of a ``Deblurrer``: one frame on its own, or a stream that remembers the frames before."""

    def submit(self, frame: Frame, /) -> Pending: ...

    def open_stream(self) -> Processor: ...


def run(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    deblurrer: FrameDeblurrer | None = None,
    encoder: str | None = None,
    crf: int | None = None,
    speed: str = "veryfast",
    quality: int = 95,
    start: str | float | None = None,
    end: str | float | None = None,
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    rate: Fraction | None = None,
    allow_8bit: bool = False,
    odd: str = "pad",
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> RunReport:
    """Deblur a video file into a video file, a picture into a picture, the pictures of a folder into a folder.

    Pictures may also be given as a pattern (``in_%04d.png``, ``shots/*.png``), a film may be made of them or turned
    into them, and "-" is standard input or output: yuv4mpeg, or rawvideo in ``pixel_format`` ("bgr24", "rgb24", "nv12",
    "i420"), which as input needs its ``size``. ``rate`` is that of raw frames and of pictures (25). ``allow_8bit`` lets
    HDR in; ``odd`` is "pad" or "444" for odd sizes in codecs that know even ones only.

    Of a folder the pictures are taken, those in folders of it and videos (which the report names as ``skipped``) are
    not, and only ``quality`` and ``overwrite`` say how; ``dst`` is made if it is not there. The command ``crispstream
    run`` takes folders of videos, too, and resumes.

    ``deblurrer`` is used as it is and stays open; without one, ``Deblurrer(**options)`` (preset, device, strength, ...)
    is made for this run; both together are a UsageError. ``encoder``, ``crf`` and ``speed`` are for video
    (``sinks.encoders``), ``quality`` (1 to 100) for JPEG and WebP. ``start`` and ``end`` say which part
    of a video, as seconds or "1:02.5" after its first picture. An output that exists is replaced only with
    ``overwrite``; it appears when it is whole. ``progress`` shows on stderr how far the run is. After Ctrl-C the output
    holds what was done so far and the report says ``interrupted``.
    Raises InputError, OutputError, UsageError or EngineError.
    """
    if deblurrer is not None and options:
        raise UsageError(f"{', '.join(options)} given beside a deblurrer", "give them to the Deblurrer")
    src, dst = ends_of(src, dst)
    cut = Cut.between(start, end)
    wishes = Wishes(encoder, crf, speed, quality, overwrite, size, pixel_format, rate, allow_8bit, odd)
    with ExitStack() as cleanup:
        if src != PIPE and os.path.isdir(src):
            ends = _folder(src, dst, wishes, cut, cleanup)
        else:
            ends = open_ends(src, dst, wishes, cut, cleanup)
        if dst != PIPE:
            sweep(dst if dst.is_dir() else Path(os.path.realpath(dst)).parent)
        source, sink = ends.source, ends.sink
        display = make_progress(quiet=not progress)
        cleanup.callback(display.stop)
        with open_deblurrer(deblurrer, options) as ready:
            # Single pictures have no neighbours, so they pass outside any stream.
            processor: Processor = ready.open_stream() if ends.is_film else ready
            display.start(source.total)
            frames = OneSizeSource(source) if ends.one_size else source
            stats = run_pipeline(frames, processor, [sink], on_progress=lambda s: display.update(s.frames_out))
    return RunReport(
        input=str(src),
        output=str(dst),
        frames=stats.frames_out,
        seconds=stats.seconds,
        fps=stats.frames_out / stats.seconds,
        width=stats.width,
        height=stats.height,
        stages={"decode": stats.decode_seconds, "deblur": stats.deblur_seconds, "encode": stats.encode_seconds},
        encoder=sink.encoder_name,
        drops=stats.dropped,
        interrupted=stats.interrupted,
        skipped=sink.skipped,
        failed=source.failed if isinstance(source, PictureSource) else [],
        warnings=[*source.warnings, *sink.warnings],
    )


def ends_of(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two paths, the output's with the input's name where it is a folder. Raises InputError and UsageError."""
    src, dst = Path(src), Path(dst)
    check_name(src, InputError)
    check_name(dst, OutputError)
    if is_one_file(src):
        check_input(src)
        if dst == PIPE and src.is_dir():
            raise UsageError(f"{src} is a folder, - is a pipe", "give a folder as output")
        if dst != PIPE and dst.is_dir() and not src.is_dir():
            dst = dst / src.name
        if dst != PIPE and dst.exists() and os.path.samefile(src, dst):
            raise UsageError("the output is the input", "choose another name")
    elif src == PIPE != dst and dst.is_dir():
        raise UsageError(f"{dst} is a folder", "give the name of a file in it")
    return src, dst


def open_deblurrer(deblurrer: FrameDeblurrer | None, options: dict[str, Any]) -> AbstractContextManager[FrameDeblurrer]:
    """``deblurrer`` as it is, left open; or one made of ``options``, closed on leaving."""
    if deblurrer is not None:
        return nullcontext(deblurrer)
    # Late, because it loads the engine: wrong paths are told before that.
    from crispstream.deblurrer import Deblurrer

    return Deblurrer(**options)


def check_name(path: Path, kind: type[CrispStreamError]) -> None:
    """Raise ``kind`` where the system does not even say whether ``path`` is there: too long, or in a closed folder."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise kind(f"{path} cannot be reached ({error.strerror})", "check the path and its permissions") from error
    except ValueError as error:  # a zero in it
        raise kind(f"{str(path)!r} is no name of a file") from error


def check_input(src: Path) -> None:
    """Raise InputError where ``src`` is not there or cannot be read."""
    check_name(src, InputError)
    if not src.exists():
        raise InputError(f"{src} does not exist")
    if not os.access(src, os.R_OK):
        raise InputError(f"{src} may not be read", "check its permissions")
    if src.is_dir():
        return
    if not src.is_file():
        raise InputError(
            f"{src} is neither a file nor a folder",
            "read a pipe as -: ffmpeg -i in.mp4 -f yuv4mpegpipe - | crispstream run - out.mp4",
        )
    if src.stat().st_size == 0:
        raise InputError(f"{src} is empty")


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """What ``folder`` holds with one of the ``suffixes``, sorted by name: no folders and nothing hidden."""
    named = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    # What cannot be reached stays in the list, so that it is told.
    return sorted(p for p in named if os.path.isfile(p) or not os.path.exists(p))


def make_folder(folder: Path, cleanup: ExitStack) -> None:
    """Make ``folder`` if it is not there; ``cleanup`` removes it again if nothing came into it. Raises OutputError."""
    if folder.is_dir():
        return
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder} ({error.strerror})") from error
    cleanup.callback(_remove_if_empty, folder)


def _folder(src: Path, dst: Path, wishes: Wishes, cut: Cut, cleanup: ExitStack) -> Ends:
    """The pictures of ``src``, each to its name in ``dst``."""
    if dst.suffix and not dst.is_dir():
        raise UsageError(f"{src} is a folder, {dst} is a file name", "give a folder as output")
    if cut != Cut():
        raise UsageError(f"{src} has no times", "start and end are for videos")
    for name in _FOR_FILMS:
        if getattr(wishes, name) != getattr(Wishes(), name):
            raise UsageError(f"{name} is for films, {src} is a folder of pictures", "leave it out, or give one video")
    pictures = list_files(src, PICTURE_SUFFIXES)
    if not pictures:
        raise InputError(f"{src} holds no picture", f"known suffixes: {', '.join(PICTURE_SUFFIXES)}")
    make_folder(dst, cleanup)
    sink = PictureSink({p: dst / p.name for p in pictures}, quality=wishes.quality, overwrite=wishes.overwrite)
    cleanup.callback(sink.abort)
    sink.skipped += [f"{video.name}: a video, give it by itself" for video in list_files(src, VIDEO_SUFFIXES)]
    return Ends(PictureSource(pictures, keep_going=True), sink, is_film=False, one_size=False)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
