# SPDX-License-Identifier: Apache-2.0
"""A picture of a live stream every so often."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from av.video.reformatter import VideoReformatter

from crispstream.convert import converted
from crispstream.errors import UsageError
from crispstream.frame import PixelFormat
from crispstream.live.protocol import Shot
from crispstream.orientation import upright
from crispstream.sinks.names import Names, has_place, is_kept, keep
from crispstream.sinks.pictures import PictureSink, picture_format

_KEY = Path()
_ABOUT = {"path": _KEY, "grey": False, "alpha": None, "exif": None, "icc_profile": None, "dpi": None}


class SnapshotSink:
    """Writes the first frame, and then one every ``every`` seconds, upright and as RGB.

    ``path`` with places for a time or a number: a new picture each time (see ``Names``); else one picture that is
    replaced whole each time, and one that this process has not written only with ``overwrite``. Raises UsageError.
    """

    def __init__(self, path: Path, every: float = 10.0, overwrite: bool = False) -> None:
        if not every > 0:
            raise UsageError(f"a picture every {every} s is not possible", "give seconds above 0")
        picture_format(path)
        self.name = str(path)
        self._path = path
        self._names = Names(path) if has_place(path) else None
        self._every = every
        self._overwrite = overwrite
        self._due = float("-inf")
        self._reformatter = VideoReformatter()

    def write(self, shot: Shot) -> bool:
        """Write a picture where it is time for one, and say whether it was. Raises OutputError."""
        if shot.captured < self._due:
            return False
        wall = time.time() - (time.monotonic() - shot.captured)
        path = self._path if self._names is None else self._names.next(wall)
        rgb = converted(upright(shot.after), PixelFormat.RGB24, self._reformatter)
        alone = self._names is None
        pictures = PictureSink({_KEY: path}, overwrite=alone and (self._overwrite or is_kept(path)))
        pictures.write(replace(rgb, info=_ABOUT))
        if alone:
            keep(path)
        # Counted from the time that was due, so that the times do not wander; after a pause, from now.
        self._due += self._every
        if self._due <= shot.captured:
            self._due = shot.captured + self._every
        return True

    def close(self) -> None:
        """Every picture is finished already."""

    def abort(self) -> None:
        """Finished pictures stay; an unfinished one is never left."""
