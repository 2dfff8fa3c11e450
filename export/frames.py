# SPDX-License-Identifier: Apache-2.0
"""Frames to verify with: real pictures where there are any, noise, and what drives activations high."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from crispstream.errors import InputError
from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat, Range

Rgb = npt.NDArray[np.uint8]
DATA_VARIABLE = "CRISPSTREAM_DATA"
REAL_PICTURES = 4
SUFFIXES = (".jpg", ".webp")  # PNG files in such a folder are masks


def real_pictures(images: Iterable[Path]) -> dict[str, Rgb]:
    """(H, W, 3) RGB pictures: ``images``, or a few of the folder ``$CRISPSTREAM_DATA``; and scikit-image's portrait.

    Raises InputError for a picture that cannot be read.
    """
    paths = list(images)
    if not paths and DATA_VARIABLE in os.environ:
        found = sorted(p for p in Path(os.environ[DATA_VARIABLE]).rglob("*") if p.suffix in SUFFIXES)
        paths = found[:: max(1, len(found) // REAL_PICTURES)][:REAL_PICTURES]
    pictures = {path.name: _read(path) for path in paths}
    try:
        from skimage import data
    except ImportError:
        return pictures
    return {"astronaut": np.asarray(data.astronaut()), **pictures}  # type: ignore[no-untyped-call]


def frames(pictures: dict[str, Rgb], width: int, height: int) -> dict[str, Rgb]:
    """Every picture, cropped and scaled to fill ``width`` x ``height``, and uniform noise; (H, W, 3) RGB."""
    fitted = {name: _fit(picture, width, height) for name, picture in pictures.items()}
    return {**fitted, "noise": _noise(width, height)}


def stress_frames(pictures: dict[str, Rgb], width: int, height: int) -> dict[str, Rgb]:
    """``frames``, the pictures stretched to the full range, saturated blocks and saturated noise."""
    found = frames(pictures, width, height)
    stretched = {
        f"{name}, stretched": np.asarray(ImageOps.autocontrast(Image.fromarray(found[name]), cutoff=20))
        for name in pictures
    }
    noise = np.where(found["noise"] > 127, 255, 0).astype(np.uint8)
    blocks = noise[::8, ::8].repeat(8, 0).repeat(8, 1)[:height, :width]
    return {**found, **stretched, "saturated noise": noise, "saturated blocks": blocks}


def bgr_frame(rgb: Rgb) -> Frame:
    """The picture as a BGR24 frame."""
    return Frame.from_array(np.ascontiguousarray(rgb[..., ::-1]))


def i420_frame(rgb: Rgb) -> Frame:
    """The picture as an I420 frame, BT.709 limited range (ITU-R BT.709-6), chroma taken from every second sample."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    planes = (16 + 219 * luma, *(128 + 224 * (c - luma)[::2, ::2] / n for c, n in ((b, 1.8556), (r, 1.5748))))
    codes = tuple(np.ascontiguousarray(np.rint(plane).astype(np.uint8)) for plane in planes)
    return Frame(codes, PixelFormat.I420, ColorSpec(Matrix.BT709, Range.LIMITED))


def _read(path: Path) -> Rgb:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _fit(picture: Rgb, width: int, height: int) -> Rgb:
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (width, height)))


def _noise(width: int, height: int) -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
