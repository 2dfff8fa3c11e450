# SPDX-License-Identifier: Apache-2.0
"""Frames that show an INT8 engine its ranges, and others to judge it by: the user's, or those that we draw."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from crispstream.errors import EngineError, InputError
from crispstream.files import list_files
from crispstream.frame import Frame, PixelFormat
from crispstream.sources.pictures import PICTURE_SUFFIXES, PictureSource
from crispstream.sources.video import VideoSource

COUNT = 20
"""Frames that are used, spread over what there is."""
ASIDE = 5
"""Every fifth frame is judged by and shows no ranges."""
SPAN = 600
"""Frames of a video that are looked at: the first."""


@dataclass(frozen=True)
class CalibrationFrames:
    """``shown``: their ranges count. ``aside``: what is judged, each with its true frame where that is known."""

    source: str
    shown: list[Frame]
    aside: list[tuple[Frame, Frame | None]]


def calibration_frames(path: Path | None) -> CalibrationFrames:
    """COUNT frames of a folder of pictures or a video; without ``path`` the demo's moving portrait.

    Raises InputError where ``path`` gives fewer than two, EngineError where the portrait is not installed.
    """
    if path is None:
        return _split("drawn: the demo's moving portrait", portrait(COUNT))
    if not path.exists():
        raise InputError(f"{path} does not exist", "a folder of pictures, or a video")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise InputError(f"{path} is one picture", "give a folder of pictures, or a video")
    frames = _pictures(path) if path.is_dir() else _video(path)
    if len(frames) < 2:
        raise InputError(f"{path} gives {len(frames)} frame", f"two at least; {COUNT} are used where there are so many")
    return _split(path.name, [(frame, None) for frame in frames])


def _split(source: str, frames: list[tuple[Frame, Frame | None]]) -> CalibrationFrames:
    aside = frames[ASIDE - 1 :: ASIDE] or frames[-1:]
    taken = {id(frame) for frame, _ in aside}
    return CalibrationFrames(source, [frame for frame, _ in frames if id(frame) not in taken], aside)


def _pictures(folder: Path) -> list[Frame]:
    paths = list_files(folder, PICTURE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder} holds no picture", f"known suffixes: {', '.join(PICTURE_SUFFIXES)}")
    return list(PictureSource(paths[:: max(1, len(paths) // COUNT)][:COUNT]))


def _video(path: Path) -> list[Frame]:
    source = VideoSource(path)
    try:
        step = max(1, min(source.total or SPAN, SPAN) // COUNT)
        return list(islice(source, 0, step * COUNT, step))
    finally:
        source.close()


def portrait(count: int) -> list[tuple[Frame, Frame | None]]:
    """The first ``count`` frames of the demo's moving portrait, blurred, each with its true frame.

    Raises EngineError where the portrait is not installed.
    """
    from crispstream.demo import moving_portrait

    try:
        pairs = list(moving_portrait(count))
    except ModuleNotFoundError as error:
        message = f"drawing frames needs {error.name}, which is not installed"
        raise EngineError(message, "pip install scikit-image") from error
    frames = ([Frame.from_array(picture, PixelFormat.RGB24) for picture in pair] for pair in pairs)
    return [(blurred, sharp) for sharp, blurred in frames]
