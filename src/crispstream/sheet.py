# SPDX-License-Identifier: Apache-2.0
"""Pictures that show what happened: before and after side by side, details enlarged, the person mask laid over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]

_GAP = 8
_TITLE = 26
_MASK_COLOUR = np.array([255, 40, 140], np.float32)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=16)


def before_after(pictures: Mapping[str, Picture], details: Sequence[tuple[int, int, int]] = ()) -> Image.Image:
    """One column a picture, its name above, enlarged ``details`` (x, y, side in pixels) below.

    ``pictures``: (H, W, 3) RGB, all of one size.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    cell = (width - _GAP * (len(details) - 1)) // len(details) if details else 0
    rows = height + (_GAP + cell if details else 0)
    sheet = Image.new("RGB", ((width + _GAP) * len(pictures) - _GAP, _TITLE + rows), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, picture) in enumerate(pictures.items()):
        left = column * (width + _GAP)
        draw.text((left + 4, 3), name, fill="black", font=_font())
        sheet.paste(Image.fromarray(picture), (left, _TITLE))
        for index, (x, y, side) in enumerate(details):
            cut = Image.fromarray(picture[y : y + side, x : x + side])
            enlarged = cut.resize((cell, cell), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + index * (cell + _GAP), _TITLE + height + _GAP))
    return sheet


def side_by_side(before: Picture, after: Picture) -> Picture:
    """(H, 2W, 3): the left half before, the right half after, named in the corner; even width and height."""
    height, width = (n // 2 * 2 for n in before.shape[:2])
    both = Image.fromarray(np.concatenate((before[:height, :width], after[:height, :width]), axis=1))
    draw = ImageDraw.Draw(both)
    for left, name in ((6, "before"), (width + 6, "after")):
        draw.text((left, 4), name, fill="white", font=_font(), stroke_width=2, stroke_fill="black")
    return np.asarray(both)


def split(before: Picture, after: Picture) -> Picture:
    """(H, W, 3): the left half of ``before``, the right half of ``after``, a white line between them."""
    middle = before.shape[1] // 2
    both = np.concatenate((before[:, :middle], after[:, middle:]), axis=1)
    both[:, max(0, middle - 1) : middle + 1] = 255
    return both


def difference(before: Picture, after: Picture) -> Picture:
    """(H, W, 3): four times what was added, on middle grey, cut off at black and white."""
    added = after.astype(np.int16) - before
    return np.asarray(np.clip(128 + 4 * added, 0, 255), np.uint8)


def mask_overlay(picture: Picture, mask: npt.NDArray[np.float32]) -> Image.Image:
    """The picture (H, W, 3) with the person mask (h, w) in [0, 1] tinted over it, upsampled bilinearly."""
    height, width = picture.shape[:2]
    full = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR))[..., None] * 0.55
    return Image.fromarray(np.asarray(picture * (1 - full) + _MASK_COLOUR * full, np.uint8))
