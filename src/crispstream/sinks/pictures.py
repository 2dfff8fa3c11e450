# SPDX-License-Identifier: Apache-2.0
"""Frames into picture files, with the alpha, EXIF and ICC blocks they came with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crispstream.errors import OutputError, UsageError
from crispstream.frame import Frame, PixelFormat, Plane
from crispstream.sinks.partial import PartialFile

if TYPE_CHECKING:  # a film needs no Pillow
    from PIL import Image

_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
_WITH_ALPHA = ("PNG", "WEBP", "TIFF")


class PictureSink:
    """Writes the frame read from each key of ``targets`` to its value; every file appears whole.

    ``quality``: 1 to 100, for JPEG (written 4:4:4) and WebP; PNG, TIFF and BMP are lossless.
    Raises UsageError for a suffix or a quality that is not known and OutputError for what cannot be written.
    """

    encoder_name = "pillow"

    def __init__(self, targets: dict[Path, Path], *, quality: int = 95, overwrite: bool = False) -> None:
        if not 1 <= quality <= 100:
            raise UsageError(f"quality {quality} is not between 1 and 100")
        for target in targets.values():
            picture_format(target)
            PartialFile(target, overwrite).discard()  # what cannot be written is known before any work is done
        self._targets = targets
        self._quality = quality
        self._overwrite = overwrite
        self.warnings: list[str] = []
        self.skipped: list[str] = []

    def write(self, frame: Frame) -> None:
        """Write one picture under its name. Raises OutputError."""
        target = self._targets[frame.info["path"]]
        kind = picture_format(target)
        picture = _picture(frame, kind, target)
        file = PartialFile(target, self._overwrite)
        try:
            self._save(picture, file.temporary, kind, _options(frame, kind, self._quality))
        except Exception as error:  # Pillow's encoders end in whatever their own parsing ends in
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot write {target} ({reason})") from error
        else:
            file.commit()
        finally:
            file.discard()

    def _save(self, picture: Image.Image, path: Path, kind: str, options: dict[str, Any]) -> None:
        try:
            picture.save(path, kind, **options)
        except Exception:
            if options.pop("exif", None) is None:
                raise
            picture.save(path, kind, **options)  # the block came from the input, and may be damaged
            self.warnings.append(f"the Exif block of a picture does not go into {kind}: left out")

    def hurry(self) -> None:
        """Nothing here waits for others."""

    def close(self, complete: bool = True) -> None:
        """Every picture is finished already."""

    def abort(self) -> None:
        """Finished pictures stay; an unfinished one is never left."""


def picture_format(target: Path) -> str:
    """Pillow's name of the format that a suffix means. Raises UsageError."""
    if target.suffix.lower() not in _FORMATS:
        raise UsageError(f"cannot write a picture as {target.name}", f"use {', '.join(_FORMATS)}")
    return _FORMATS[target.suffix.lower()]


def _picture(frame: Frame, kind: str, target: Path) -> Image.Image:
    from PIL import Image

    if frame.format is not PixelFormat.RGB24:
        raise OutputError(f"pictures are written from RGB24, not {frame.format.name}")
    rgb = frame.planes[0]
    alpha: Plane | None = frame.info["alpha"]
    grey = frame.info["grey"] and kind != "WEBP"  # WebP knows no greyscale
    if grey:
        picture = Image.fromarray(((rgb.sum(axis=2, dtype=np.uint16) + 1) // 3).astype(np.uint8))
    else:
        picture = Image.fromarray(np.ascontiguousarray(rgb))
    if alpha is not None and kind in _WITH_ALPHA:
        picture.putalpha(Image.fromarray(alpha))
    elif alpha is not None and alpha.min() < 255:
        raise OutputError(f"{target.name} cannot hold the transparency of its input", "write PNG, WebP or TIFF")
    return picture


def _options(frame: Frame, kind: str, quality: int) -> dict[str, Any]:
    options: dict[str, Any] = {k: frame.info[k] for k in ("exif", "icc_profile", "dpi") if frame.info[k] is not None}
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"quality": quality, "exact": True}
    elif kind == "TIFF":
        options["compression"] = "tiff_lzw"
    return options
