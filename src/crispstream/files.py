# SPDX-License-Identifier: Apache-2.0
"""Files in, files out: what ``crispstream.run`` makes of two paths."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from crispstream.cut import Cut, parse_time
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.pipeline import Pending, Processor, run_pipeline
from crispstream.progress import make_progress
from crispstream.report import RunReport
from crispstream.sinks.pictures import PictureSink
from crispstream.sinks.video import VideoSink
from crispstream.sources.part import PartSource
from crispstream.sources.pictures import PICTURE_SUFFIXES, PictureSource, list_pictures
from crispstream.sources.video import VideoSource


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
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> RunReport:
    """Deblur a video file into a video file, a picture into a picture, a folder of pictures into a folder.

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
    src, dst = Path(src), Path(dst)
    _check_input(src)
    if dst.is_dir() and not src.is_dir():
        dst = dst / src.name
    if dst.exists() and os.path.samefile(src, dst):
        raise UsageError("the output is the input", "choose another name")
    cut = Cut(*(None if time is None else parse_time(str(time)) for time in (start, end)))
    source: VideoSource | PartSource | PictureSource
    sink: VideoSink | PictureSink
    with ExitStack() as cleanup:
        if src.is_dir() or src.suffix.lower() in PICTURE_SUFFIXES:
            if cut != Cut():
                raise UsageError(f"{src} has no times", "--start and --end are for videos")
            targets = _picture_targets(src, dst, cleanup)
            sink = PictureSink(targets, quality=quality, overwrite=overwrite)
            source = PictureSource(list(targets), keep_going=src.is_dir())
        else:
            video = VideoSource(src)
            cleanup.callback(video.close)
            source = video if cut == Cut() else PartSource(video, cut)
            film = (src, video.stream_index)
            sink = VideoSink(
                dst, copy_from=film, rate=video.rate, encoder=encoder, crf=crf, speed=speed, overwrite=overwrite
            )
        cleanup.callback(sink.abort)
        display = make_progress(quiet=not progress)
        cleanup.callback(display.stop)
        with _ready(deblurrer, options) as ready:
            # Single pictures have no neighbours, so they pass outside any stream.
            processor: Processor = ready.open_stream() if isinstance(sink, VideoSink) else ready
            display.start(source.total)
            stats = run_pipeline(source, processor, [sink], on_progress=lambda s: display.update(s.frames_out))
    return RunReport(
        input=str(src),
        output=str(dst),
        frames=stats.frames_out,
        seconds=stats.seconds,
        fps=stats.frames_out / stats.seconds,
        width=stats.width,
        height=stats.height,
        stages={"decode": stats.decode_seconds, "deblur": stats.deblur_seconds, "encode": stats.encode_seconds},
        encoder=sink.encoder.name if isinstance(sink, VideoSink) else "pillow",
        drops=stats.dropped,
        interrupted=stats.interrupted,
        skipped=sink.skipped if isinstance(sink, VideoSink) else [],
        failed=source.failed if isinstance(source, PictureSource) else [],
        warnings=[*source.warnings, *sink.warnings],
    )


def _ready(deblurrer: FrameDeblurrer | None, options: dict[str, Any]) -> AbstractContextManager[FrameDeblurrer]:
    if deblurrer is not None:
        return nullcontext(deblurrer)
    # Late, because it loads the engine: wrong paths are told before that.
    from crispstream.deblurrer import Deblurrer

    return Deblurrer(**options)


def _check_input(src: Path) -> None:
    if not src.exists():
        raise InputError(f"{src} does not exist")
    if not os.access(src, os.R_OK):
        raise InputError(f"{src} may not be read", "check its permissions")
    if src.is_dir():
        return
    if not src.is_file():
        raise InputError(f"{src} is neither a file nor a folder")
    if src.stat().st_size == 0:
        raise InputError(f"{src} is empty")


def _picture_targets(src: Path, dst: Path, cleanup: ExitStack) -> dict[Path, Path]:
    """What is written where; makes the folder ``dst``, which ``cleanup`` removes again if nothing came into it."""
    if not src.is_dir():
        return {src: dst}
    if dst.suffix and not dst.is_dir():
        raise UsageError(f"{src} is a folder, {dst} is a file name", "give a folder as output")
    pictures = list_pictures(src)
    if not dst.is_dir():
        try:
            dst.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make the folder {dst} ({error.strerror})") from error
        cleanup.callback(_remove_if_empty, dst)
    return {p: dst / p.name for p in pictures}


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
