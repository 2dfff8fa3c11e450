# SPDX-License-Identifier: Apache-2.0
"""The demo: a portrait is blurred as a moving camera would, person and background apart, and restored as a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from crispstream import blur
from crispstream.deblurrer import Deblurrer
from crispstream.demo_folder import DemoFolder
from crispstream.errors import UsageError
from crispstream.files import check_input, run
from crispstream.frame import ColorSpec, Frame, PixelFormat
from crispstream.kernels.convert import convert
from crispstream.metrics import psnr
from crispstream.orientation import upright
from crispstream.progress import make_progress
from crispstream.report import RunReport
from crispstream.sheet import before_after, mask_overlay, side_by_side
from crispstream.sinks.video import VideoSink
from crispstream.sources.pictures import PICTURE_SUFFIXES, read_picture
from crispstream.sources.video import VideoSource

Picture = npt.NDArray[np.uint8]

FRAMES = 30
RATE = Fraction(24)
SUBFRAMES = 9
SHUTTER = 0.7
"""Part of the time between two frames that the shutter is open."""
CRF = 10
"""Quality of the demo's videos: near lossless, so that the figures speak of blur and not of compression."""
LONGEST_CLIP = 300
"""Frames of the user's own clip that the comparison shows."""
BLURRED, SHEET, MASK = "blurred.mp4", "before_after.png", "mask.png"

# Outline of the person (with helmet) in scikit-image's 512x512 astronaut picture: x, y, drawn by hand.
# fmt: off
PERSON = (
    (153, 78), (160, 55), (175, 38), (195, 26), (215, 18), (240, 15), (265, 22), (285, 40), (298, 62),
    (301, 85), (298, 108), (285, 124), (275, 134), (268, 138), (264, 150), (258, 165), (256, 173), (268, 182),
    (285, 200), (298, 220), (304, 236), (325, 248), (342, 262), (352, 290), (360, 325), (364, 347), (385, 344),
    (410, 345), (440, 355), (470, 380), (488, 415), (497, 447), (500, 456), (508, 465), (512, 480), (512, 512),
    (60, 512), (45, 495), (30, 470), (22, 440), (20, 400), (24, 360), (30, 320), (42, 285), (55, 258),
    (75, 240), (95, 222), (114, 210), (114, 190), (122, 175), (135, 158), (155, 149), (178, 148), (183, 146),
    (182, 132), (172, 124), (160, 112), (155, 95),
)
# fmt: on
DETAIL = ((165, 60, 104), (116, 332, 104))
"""Squares (x, y, side) shown enlarged on the sheet: the face, the patch."""


def person_alpha(size: int = 512) -> blur.Array:
    """The polygon as a soft mask (size, size, 1) in [0, 1], antialiased by 4x4 sampling."""
    mask = Image.new("L", (size * 4, size * 4))
    ImageDraw.Draw(mask).polygon([(x * size / 128, y * size / 128) for x, y in PERSON], fill=255)
    alpha = np.asarray(mask.resize((size, size), Image.Resampling.BOX), np.float32)[..., None]
    return np.asarray(alpha / np.float32(255), np.float32)


def motion(time: npt.NDArray[np.float64], reach: float, turn: float, phase: float) -> blur.Array:
    """Maps (T, 2, 3) of a swaying layer at ``time`` (T,) in frames: a Lissajous path of ``reach`` pixels."""
    x = reach * np.sin(2 * np.pi * time / 9 + phase)
    y = 0.5 * reach * np.sin(2 * np.pi * time / 7 + 2 * phase)
    angle = turn * np.sin(2 * np.pi * time / 11 + phase)
    rows = [[np.cos(angle), -np.sin(angle), x], [np.sin(angle), np.cos(angle), y]]
    return np.moveaxis(np.array(rows, np.float32), 2, 0)


def moving_portrait(count: int = FRAMES) -> Iterator[tuple[Picture, Picture]]:
    """(sharp, blurred) frames of the moving portrait, (512, 512, 3) RGB; the sharp one is the mid-exposure instant.

    Raises ImportError where scikit-image, whose public-domain NASA portrait this is, is not installed.
    """
    from skimage import data

    linear = blur.to_linear(np.asarray(data.astronaut(), np.float32) / np.float32(255))  # type: ignore[no-untyped-call]
    layers = blur.split_layers(linear, person_alpha(), margin=5)
    shutter = (np.arange(SUBFRAMES) - SUBFRAMES // 2) / SUBFRAMES * SHUTTER
    for index in range(count):
        pair = []
        for time in (np.array([index], float), index + shutter):
            mean, _ = blur.expose(*layers, camera=motion(time, 16, 0.015, 0.4), person=motion(time, 12, 0.01, 2.1))
            pair.append(np.asarray(np.round(blur.to_srgb(mean) * 255), np.uint8))
        yield pair[0], pair[1]


def as_seen(frame: Frame) -> Picture:
    """Any frame as an (H, W, 3) RGB array, turned as its display matrix says."""
    pixels = frame.planes[0]
    if frame.format is not PixelFormat.RGB24:
        out = Frame.from_array(np.empty((frame.height, frame.width, 3), np.uint8), PixelFormat.RGB24)
        convert(frame, out)
        pixels = out.planes[0]
    return upright(Frame((pixels,), PixelFormat.RGB24, info=frame.info)).planes[0]


def run_demo(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    preset: str,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Restore the portrait, or the user's picture or clip, and put the evidence into the folder ``output``.

    What an earlier demo made there is replaced, other files only with ``overwrite``, the input never. ``progress``
    shows on stderr how far each step is. Returns figures and files: ``psnr_blurred``, ``psnr_restored`` (dB, mean over
    frames; None for the user's own input, whose truth nobody knows), ``fps`` (restoring, codecs included), ``stats``,
    ``files``. Raises InputError, OutputError, UsageError, EngineError.
    """
    path = None if source is None else Path(source)
    if path is not None:
        check_input(path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder", "give one picture or one clip")
    is_picture = path is not None and path.suffix.lower() in PICTURE_SUFFIXES
    names = [f"restored{path.suffix}"] if path is not None and is_picture else ["restored.mp4", "compare.mp4"]
    folder = DemoFolder(output, [*names, SHEET, MASK, *([BLURRED] if path is None else [])], path, overwrite)
    with Deblurrer(preset) as deblurrer:
        if path is not None and is_picture:
            return _picture_demo(path, names[0], folder, deblurrer)
        truth: list[Picture] = []
        if path is None:
            drawn = _followed(_remember(moving_portrait(), truth), "blurring", FRAMES, progress)
            path = _write(folder, BLURRED, drawn, RATE)
        return _clip_demo(path, truth, folder, deblurrer, progress)


def _remember(pairs: Iterator[tuple[Picture, Picture]], truth: list[Picture]) -> Iterator[Picture]:
    for sharp, blurred in pairs:
        truth.append(sharp)
        yield blurred


def _followed(pictures: Iterator[Picture], what: str, total: int, shown: bool) -> Iterator[Picture]:
    display = make_progress(quiet=not shown, what=what)
    display.start(total)
    try:
        for done, picture in enumerate(pictures, 1):
            yield picture
            display.update(done)
    finally:
        display.stop()


def _write(folder: DemoFolder, name: str, pictures: Iterator[Picture], rate: Fraction) -> Path:
    sink = VideoSink(folder.path(name), rate=rate, crf=CRF, overwrite=folder.may_replace(name))
    try:
        for index, picture in enumerate(pictures):
            sink.write(Frame((picture,), PixelFormat.RGB24, ColorSpec(), index, 1 / rate))
        sink.close()
    finally:
        sink.abort()
    return Path(folder.made(name))


def _read(path: Path) -> Iterator[Picture]:
    source = VideoSource(path)
    try:
        yield from map(as_seen, islice(source, LONGEST_CLIP))
    finally:
        source.close()


def _rate(path: Path) -> Fraction:
    source = VideoSource(path)
    source.close()
    return source.rate


def _restore(
    path: Path, name: str, folder: DemoFolder, deblurrer: Deblurrer, progress: bool, **options: Any
) -> RunReport:
    overwrite = folder.may_replace(name)
    report = run(path, folder.path(name), deblurrer=deblurrer, overwrite=overwrite, progress=progress, **options)
    folder.made(name)  # an interrupted film, too, is the demo's
    if report.interrupted:
        raise KeyboardInterrupt
    return report


def _clip_demo(
    clip: Path, truth: list[Picture], folder: DemoFolder, deblurrer: Deblurrer, progress: bool
) -> dict[str, Any]:
    report = _restore(clip, "restored.mp4", folder, deblurrer, progress, crf=CRF)
    restored = folder.path("restored.mp4")
    scores: list[tuple[float, float]] = []

    def compared() -> Iterator[Picture]:
        for index, (before, after) in enumerate(zip(_read(clip), _read(restored), strict=True)):
            if truth:
                scores.append((psnr(before, truth[index]), psnr(after, truth[index])))
            yield side_by_side(before, after)

    count = min(report.frames, LONGEST_CLIP)
    compare = _write(folder, "compare.mp4", _followed(compared(), "comparing", count, progress), _rate(clip))
    shown = count // 2
    if scores:  # the frame whose gain is the median: neither the best nor the worst
        shown = sorted(range(len(scores)), key=lambda i: scores[i][1] - scores[i][0])[len(scores) // 2]
    pictures = {
        name: next(islice(_read(file), shown, None)) for name, file in (("blurred", clip), ("restored", restored))
    }
    if truth:
        pictures["original"] = truth[shown]
    result = _evidence(pictures, DETAIL if truth else (), folder, deblurrer)
    result["files"] = [str(compare), str(restored), *result["files"]]
    result["fps"] = round(report.fps, 2)
    if scores:
        result["psnr_blurred"], result["psnr_restored"] = (round(float(m), 3) for m in np.mean(scores, axis=0))
    return result


def _picture_demo(path: Path, name: str, folder: DemoFolder, deblurrer: Deblurrer) -> dict[str, Any]:
    report = _restore(path, name, folder, deblurrer, progress=False)
    restored = folder.path(name)
    pictures = {
        title: read_picture(file, upright=True).planes[0] for title, file in (("blurred", path), ("restored", restored))
    }
    result = _evidence(pictures, (), folder, deblurrer)
    return {**result, "fps": round(report.fps, 2), "files": [str(restored), *result["files"]]}


def _evidence(
    pictures: dict[str, Picture], details: tuple[tuple[int, int, int], ...], folder: DemoFolder, deblurrer: Deblurrer
) -> dict[str, Any]:
    mask, _ = deblurrer.maps(np.ascontiguousarray(pictures["blurred"][..., ::-1]))
    return {
        "psnr_blurred": None,
        "psnr_restored": None,
        "preset": deblurrer.engine.manifest.preset,
        "engine": deblurrer.engine.name,
        "stats": deblurrer.stats.as_dict(),
        "files": [
            folder.save(before_after(pictures, details), SHEET),
            folder.save(mask_overlay(pictures["blurred"], mask), MASK),
        ],
    }
