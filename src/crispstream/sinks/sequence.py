# SPDX-License-Identifier: Apache-2.0
"""The frames of a film as numbered pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from av.video.reformatter import VideoReformatter

from crispstream.convert import converted
from crispstream.errors import OutputError
from crispstream.frame import Frame, PixelFormat
from crispstream.orientation import upright
from crispstream.patterns import matches, nth
from crispstream.sinks.pictures import PictureSink
from crispstream.tags import VideoTags


class SequenceSink:
    """Writes frame n, counted from 1, upright and as RGB, to the path that ``pattern`` gives for n.

    Raises UsageError and OutputError as ``PictureSink`` does; pictures of that pattern that exist are replaced only
    with ``overwrite``.
    """

    encoder_name = "pillow"

    def __init__(self, pattern: Path, *, quality: int = 95, overwrite: bool = False) -> None:
        older = matches(pattern)
        if older and not overwrite:
            raise OutputError(f"{next(iter(older.values()))} exists", "use --overwrite to replace such pictures")
        self._older = older
        self._pattern = pattern
        self._count = 0
        self._targets = {Path("1"): nth(pattern, 1)}
        self._pictures = PictureSink(self._targets, quality=quality, overwrite=overwrite)
        self._reformatter = VideoReformatter()
        self.warnings: list[str] = []
        self.skipped: list[str] = []

    def write(self, frame: Frame) -> None:
        """Write one picture. Raises OutputError."""
        self._count += 1
        turned = upright(frame)
        if turned is not frame and not self.warnings and VideoTags.of(frame).display_matrix is not None:
            self.warnings.append("turned in their pixels: pictures hold no rotation here")
        rgb = converted(turned, PixelFormat.RGB24, self._reformatter)
        name = Path(str(self._count))
        about = {"path": name, "grey": False, "alpha": None, "exif": None, "icc_profile": None, "dpi": None}
        self._targets.clear()
        self._targets[name] = nth(self._pattern, self._count)
        self._pictures.write(replace(rgb, info=about))

    def hurry(self) -> None:
        """Nothing here waits for others."""

    def close(self, complete: bool = True) -> None:
        """Every picture is finished already."""
        left = sum(number > self._count for number in self._older)
        if left:
            self.warnings.append(f"{left} older pictures with numbers above {self._count} are still there")

    def abort(self) -> None:
        """Finished pictures stay; an unfinished one is never left."""
