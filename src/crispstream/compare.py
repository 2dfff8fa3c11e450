# SPDX-License-Identifier: Apache-2.0
"""Two films or pictures in one, and how close each is to a third."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from crispstream.convert import converted
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.files import check_input, check_name
from crispstream.frame import ColorSpec, Frame, PixelFormat, Range
from crispstream.metrics import SSIM_MARGIN, psnr, ssim
from crispstream.orientation import upright
from crispstream.sheet import Picture, difference, side_by_side, split
from crispstream.sinks.partial import sweep
from crispstream.sinks.pictures import PictureSink
from crispstream.sinks.video import VideoSink
from crispstream.sources.pictures import PICTURE_SUFFIXES, PictureSource
from crispstream.sources.video import VideoSource
from crispstream.tags import VideoTags

_VIEWS = {"side-by-side": side_by_side, "split": split, "difference": difference}
_EXIF_ORIENTATION = 274
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def compare(
    before: Path,
    after: Path,
    output: Path | None,
    *,
    mode: str = "side-by-side",
    reference: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Show ``before`` and ``after``, two videos or two pictures of one size, in ``output``, as ``mode`` says.

    With a ``reference``, ``before`` and ``after`` in the result hold "psnr" (dB) and "ssim", means over frames of the
    8-bit RGB pictures as they are seen (upright); "ssim" is None below 11x11 pixels. Frames are paired in their order;
    where one film is longer, its rest is left out, and a warning says so. Raises InputError, OutputError, UsageError.
    """
    if output is None and reference is None:
        raise UsageError("neither an output nor a reference is given", "name a file to write, or --reference PATH")
    paths = [path for path in (before, after, reference) if path is not None]
    if output is not None:
        check_name(output, OutputError)
    for path in paths:
        check_input(path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder", "give two videos or two pictures")
        if output is not None and output.exists() and output.samefile(path):
            raise UsageError("the output is an input", "choose another name")
    pictures = {path.suffix.lower() in PICTURE_SUFFIXES for path in paths}
    if len(pictures) > 1:
        raise UsageError("a picture and a video cannot be compared", "give two of the same kind")
    warnings: list[str] = []
    scores: list[list[tuple[float, float | None]]] = []
    count = 0
    with ExitStack() as cleanup:
        sources = [_open(path, cleanup) for path in paths]
        sink = None if output is None else _sink(output, sources[0], pictures.pop(), overwrite, cleanup)
        for frames in zip_longest(*sources):
            if None in frames:
                shorter = paths[frames.index(None)]
                if count == 0:
                    raise InputError(f"{shorter} holds no frame that can be decoded")
                warnings.append(f"{shorter} ends after {count} frames: the rest of the others is left out")
                break
            views = [_seen(frame) for frame in frames]
            _check_sizes(paths, views)
            if reference is not None:
                scores.append([_score(view, views[2]) for view in views[:2]])
            if sink is not None:
                sink.write(_frame(_VIEWS[mode](views[0], views[1]), frames[0], output))
            count += 1
        if count == 0:
            raise InputError(f"{paths[0]} holds no frame that can be decoded")
        if sink is not None:
            sink.close()
    for source in sources:
        warnings += [warning for warning in source.warnings if warning not in warnings]
    result: dict[str, Any] = {"output": None if output is None else str(output), "mode": mode, "frames": count}
    if scores:
        result["before"], result["after"] = (_mean([pair[i] for pair in scores]) for i in (0, 1))
    return {**result, "warnings": [*warnings, *(sink.warnings if sink is not None else ())]}


def _open(path: Path, cleanup: ExitStack) -> VideoSource | PictureSource:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureSource([path])
    source = VideoSource(path)
    cleanup.callback(source.close)
    return source


def _sink(
    output: Path, source: VideoSource | PictureSource, is_picture: bool, overwrite: bool, cleanup: ExitStack
) -> VideoSink | PictureSink:
    sink: VideoSink | PictureSink
    if is_picture:
        sink = PictureSink({output: output}, overwrite=overwrite)
    else:
        rate = source.rate if isinstance(source, VideoSource) else Fraction(25)
        sink = VideoSink(output, rate=rate, overwrite=overwrite)
    cleanup.callback(sink.abort)
    sweep(Path(os.path.realpath(output)).parent)
    return sink


def _seen(frame: Frame) -> Picture:
    """The frame as people see it: RGB (H, W, 3), upright."""
    picture = converted(upright(frame), PixelFormat.RGB24, VideoReformatter()).planes[0]
    exif = Image.Exif()
    with suppress(OSError, SyntaxError, ValueError, struct.error):  # damage in there turns nothing
        exif.load(frame.info.get("exif") or b"")
    turn = _TURNS.get(exif.get(_EXIF_ORIENTATION, 1))
    return picture if turn is None else np.asarray(Image.fromarray(picture).transpose(turn))


def _check_sizes(paths: list[Path], views: list[Picture]) -> None:
    for path, view in zip(paths, views, strict=True):
        if view.shape != views[0].shape:
            sizes = (f"{v.shape[1]}x{v.shape[0]}" for v in (views[0], view))
            hint = "only equal sizes are compared: run with --odd 444 keeps an odd one"
            raise UsageError(f"{paths[0]} is {next(sizes)}, {path} is {next(sizes)}", hint)


def _score(picture: Picture, truth: Picture) -> tuple[float, float | None]:
    big_enough = min(truth.shape[:2]) > 2 * SSIM_MARGIN
    return psnr(picture, truth), ssim(picture, truth) if big_enough else None


def _mean(scores: list[tuple[float, float | None]]) -> dict[str, float | None]:
    similar = [score for _, score in scores if score is not None]
    return {
        "psnr": float(np.mean([score for score, _ in scores])),
        "ssim": float(np.mean(similar)) if similar else None,
    }


def _frame(picture: Picture, like: Frame, path: Path | None) -> Frame:
    """The picture at the time of ``like``, for either sink."""
    tags = VideoTags.of(upright(like))
    about: dict[str, Any] = {"path": path, "grey": False, "alpha": None, "exif": None, "icc_profile": None, "dpi": None}
    if "video_tags" in like.info:
        shown = VideoTags(
            primaries=tags.primaries, transfer=tags.transfer, sample_aspect_ratio=tags.sample_aspect_ratio
        )
        about["video_tags"] = shown
    else:
        about["icc_profile"] = like.info.get("icc_profile")
    rgb = ColorSpec(range=Range.FULL)
    planes = (np.ascontiguousarray(picture),)
    return Frame(planes, PixelFormat.RGB24, rgb, like.pts, like.time_base, like.duration, info=about)
