# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks show to the program: the demo's moving portrait, and a clip whose content changes."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crispstream import blur
from crispstream.demo import SHUTTER, SUBFRAMES, Picture, motion, moving_portrait
from crispstream.frame import ColorSpec, Frame, PixelFormat
from crispstream.sinks.video import VideoSink

Clip: TypeAlias = list[tuple[str, Frame]]

RATE = Fraction(25)
DISTINCT = 4
"""Frames that are drawn; a clip goes through them forth and back."""
PARTS = ("sharp", "no people", "people")
"""Of the mixed clip: a still page of text; patches of colour and a portrait, both blurred by a moving camera."""


def portrait(size: tuple[int, int]) -> list[Picture]:
    """DISTINCT pictures (height, width, 3) RGB of the moving portrait, blurred, cropped to the shape. Needs
    scikit-image."""
    return [_fitted(picture, size) for picture in _portraits()]


def film(path: Path, size: tuple[int, int], count: int) -> Path:
    """Write ``count`` frames of the portrait to ``path`` with the encoder's defaults."""
    sink = VideoSink(path, rate=RATE)
    try:
        for index, picture in enumerate(_back_and_forth(portrait(size), count)):
            sink.write(Frame((picture,), PixelFormat.RGB24, ColorSpec(), index, 1 / RATE))
        sink.close()
    finally:
        sink.abort()
    return path


def mixed(size: tuple[int, int], count: int) -> Clip:
    """``count`` frames of each of PARTS, each with the name of its part."""
    pictures = ([text(size)], _swayed(_patches(size)), portrait(size))
    return [
        (part, Frame.from_array(picture, PixelFormat.RGB24))
        for part, shown in zip(PARTS, pictures, strict=True)
        for picture in _back_and_forth(shown, count)
    ]


def text(size: tuple[int, int]) -> Picture:
    """A page of words in black on white."""
    width, height = size
    random = np.random.default_rng(0)
    page = Image.new("RGB", size, "white")
    draw, font, letters = ImageDraw.Draw(page), ImageFont.load_default(size=11), list("abcdefghijklmnopqrstuvwxyz")
    for y in range(2, height, 13):
        words = ("".join(random.choice(letters, random.integers(2, 9))) for _ in range(width // 28))
        draw.text((2, y), " ".join(words), fill="black", font=font)
    return np.asarray(page)


def _patches(size: tuple[int, int]) -> Picture:
    width, height = size
    side = 64
    colours = np.random.default_rng(0).integers(110, 130, (height // side + 1, width // side + 1, 3))
    return colours.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


def _swayed(picture: Picture) -> list[Picture]:
    """As a camera that sways sees it, DISTINCT frames."""
    linear = blur.to_linear(picture.astype(np.float32) / np.float32(255))
    shutter = (np.arange(SUBFRAMES) - SUBFRAMES // 2) / SUBFRAMES * SHUTTER
    frames = []
    for index in range(DISTINCT):
        exposed = np.mean([blur.warp(linear, map_) for map_ in motion(index + shutter, 12, 0.015, 0.4)], axis=0)
        frames.append(np.asarray(np.round(blur.to_srgb(exposed) * 255), np.uint8))
    return frames


@cache
def _portraits() -> list[Picture]:
    return [blurred for _, blurred in moving_portrait(DISTINCT)]


def _fitted(picture: Picture, size: tuple[int, int]) -> Picture:
    width = picture.shape[1]
    height = min(picture.shape[0], width * size[1] // size[0])
    return np.asarray(Image.fromarray(picture[:height]).resize(size, Image.Resampling.LANCZOS))


def _back_and_forth(pictures: list[Picture], count: int) -> list[Picture]:
    return list(islice(cycle(chain(pictures, pictures[-2:0:-1])), count))
