# SPDX-License-Identifier: Apache-2.0
"""Still pictures as frames: one file, or a folder of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crispstream.errors import InputError
from crispstream.frame import MAX_SIDE, ColorSpec, Frame, PixelFormat, Range

if TYPE_CHECKING:  # a film needs no Pillow
    from PIL import Image

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

_GREY = ("1", "L", "LA", "La")
_COLOR = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr")
# The TIFF tags that describe the picture and not its storage (TIFF 6.0; Exif and GPS directories).
_TIFF_KEPT = (270, 271, 272, 305, 306, 315, 33432, 34665, 34853)
# What Pillow's decoders raise for damage: SyntaxError for PNG chunks, TypeError for a TIFF page without a size, and
# whatever their parsing of a short or wrong field ends in; MemoryError for a PNG chunk that claims gigabytes.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, struct.error, EOFError, IndexError, OverflowError, MemoryError)


class PictureSource:
    """The pictures at ``paths``, in that order, as RGB24 frames of full range.

    ``info`` holds ``path``, ``grey`` (stored as greyscale), ``alpha`` ((H, W) uint8 or None), ``exif``,
    ``icc_profile`` (bytes or None) and ``dpi``. Pixels stay as stored, with the orientation in ``exif``; TIFF alone
    comes upright. As the frames of a ``film`` they are turned upright and opaque, which ``warnings`` tells.
    With ``keep_going`` unreadable pictures are listed in ``failed`` as (name, reason) and left out;
    without it, and when nothing at all can be read, InputError is raised.
    """

    def __init__(self, paths: Sequence[Path], keep_going: bool = False, film: bool = False) -> None:
        self._paths = list(paths)
        self._film = film
        self._keep_going = keep_going
        self.total: int | None = len(self._paths)
        self.failed: list[tuple[str, str]] = []
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        for path in self._paths:
            try:
                frame = read_picture(path, self._film)
            except InputError as error:
                if not self._keep_going:
                    raise
                self.failed.append((path.name, str(error)))
                continue
            if self._film and frame.info["alpha"] is not None and not self.warnings:
                self.warnings.append(f"the transparency of {path.name} is lost: the film is opaque")
            yield frame
        if self._paths and len(self.failed) == len(self._paths):
            raise InputError(f"none of the {len(self._paths)} pictures could be read: {self.failed[0][1]}")

    def close(self) -> None:
        """Nothing stays open between pictures."""


def read_picture(path: Path, upright: bool = False) -> Frame:
    """One picture as a frame; turned as its Exif orientation says if ``upright``.

    Raises InputError for what is not a picture, is damaged, has a side above MAX_SIDE or no 8-bit RGB form.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            _check(picture, path)
            picture.load()
            return _frame(ImageOps.exif_transpose(picture) if upright else picture, path)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is refused: more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels") from error
    except _DAMAGE as error:
        raise InputError(f"{path} cannot be read ({str(error) or type(error).__name__})") from error


def _check(picture: Image.Image, path: Path) -> None:
    if max(picture.size) > MAX_SIDE:
        size = f"{picture.width}x{picture.height}"
        raise InputError(f"{path} is {size}: a side may have {MAX_SIDE} pixels at most", "scale it down first")
    # Pillow cuts 16-bit RGB down to 8 without a word; only the decoder's raw mode shows it.
    deep = picture.mode[:1] in ("I", "F") or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))
    if deep:
        raise InputError(f"{path} has more than 8 bits a sample", "convert it to 8 bits first")
    if picture.mode not in _GREY + _COLOR:
        raise InputError(f"{path} is stored as {picture.mode}", "convert it to RGB first")
    # The second picture of an MPO is a phone's depth or gain map.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise InputError(f"{path} holds several pictures", "split it first")


def _frame(picture: Image.Image, path: Path) -> Frame:
    grey = picture.mode in _GREY
    has_alpha = picture.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in picture.info
    mode = "RGBA" if has_alpha else "RGB"
    pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    info = {
        "path": path,
        "grey": grey,
        "alpha": np.ascontiguousarray(pixels[..., 3]) if has_alpha else None,
        "exif": _exif(picture),
        "icc_profile": picture.info.get("icc_profile"),
        "dpi": picture.info.get("dpi"),
    }
    rgb = np.ascontiguousarray(pixels[..., :3])
    return Frame((rgb,), PixelFormat.RGB24, ColorSpec(range=Range.FULL), info=info)


def _exif(picture: Image.Image) -> bytes | None:
    from PIL import Image

    if picture.format != "TIFF":
        raw = picture.info.get("exif")
        return raw if isinstance(raw, bytes) else None
    everything = picture.getexif()
    kept = Image.Exif()
    for tag in _TIFF_KEPT:
        if tag in everything:
            kept[tag] = everything.get_ifd(tag) if tag in (34665, 34853) else everything[tag]
    return kept.tobytes() if len(kept) else None
