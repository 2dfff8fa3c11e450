# SPDX-License-Identifier: Apache-2.0
"""A shot as viewers get it: one binary message, so that both sides of the divider are of one frame."""

from __future__ import annotations

import json
import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crispstream.frame import ColorSpec, Frame, PixelFormat, Plane, Range
from crispstream.kernels.bindings import blend
from crispstream.kernels.geometry import Geometry
from crispstream.live.protocol import Shot

MAX_WIDTH = 1280
"""Columns of the widest picture that is sent."""
QUALITY = 88
"""Of JPEG, 0 to 100: what the stream restores is fine detail, which a lower quality takes away again."""
_MAP_SIDE = 160


def jpeg(frame: Frame) -> bytes:
    """The frame as JPEG (ITU-T T.81; BT.601 full range, as JFIF says), at most MAX_WIDTH wide."""
    pixels = _reduced(_bgr(frame))
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


class Snapshots:
    """Sides of a shot as JPEG, each encoded once however often it is asked for. Belongs to one thread."""

    def __init__(self) -> None:
        self._shot: Shot | None = None
        self._sides: dict[str, bytes] = {}

    def side(self, shot: Shot, side: str) -> bytes:
        """``side``: "before" or "after"."""
        if shot is not self._shot:
            self._shot, self._sides = shot, {}
        if side not in self._sides:
            self._sides[side] = jpeg(shot.before if side == "before" else shot.after)
        return self._sides[side]


def message(shot: Shot) -> bytes:
    """Length of the header (uint32, little endian), header (JSON), JPEG before, JPEG after, JPEG of the maps.

    The header tells ``number``, ``width`` and ``height`` of the frame in pixels, the ``sizes`` of the three parts in
    bytes, and how many times the frame's width and height the maps ``cover``: they are grey, person mask above blur
    gate, and reach beyond the right and lower edge. Without maps the third part is empty.
    """
    maps, cover = b"", (0.0, 0.0)
    if shot.head is not None:
        maps = _maps(shot.head)
        _, rows, columns = shot.head.shape
        cover = (columns * shot.map_stride / shot.before.width, rows * shot.map_stride / shot.before.height)
    parts = (jpeg(shot.before), jpeg(shot.after), maps)
    header: dict[str, Any] = {
        "number": shot.number,
        "width": shot.before.width,
        "height": shot.before.height,
        "sizes": [len(part) for part in parts],
        "cover": cover,
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((struct.pack("<I", len(encoded)), encoded, *parts))


def _bgr(frame: Frame) -> Plane:
    if frame.format is PixelFormat.BGR24:
        return frame.planes[0]
    out = Frame((np.empty((frame.height, frame.width, 3), np.uint8),), PixelFormat.BGR24, ColorSpec(range=Range.FULL))
    geometry = Geometry.for_size(frame.width, frame.height, pack=1, multiple=16, map_stride=16)
    # crispstream.kernels.convert, but in one thread: the engine needs the others.
    blend(frame, geometry, np.zeros(geometry.head_shape, np.float32), None, None, out, threads=1)
    return out.planes[0]


def _reduced(pixels: Plane) -> Plane:
    """At most MAX_WIDTH wide: whole factors by means of blocks, which is fast and keeps detail from flickering."""
    height, width = pixels.shape[:2]
    factor = width // MAX_WIDTH
    if factor > 1:
        pixels = _resized(pixels, width // factor, max(1, height // factor), cv2.INTER_AREA)
    if pixels.shape[1] > MAX_WIDTH:
        pixels = _resized(pixels, MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)), cv2.INTER_LINEAR)
    return pixels


def _resized(pixels: Plane, width: int, height: int, how: int) -> Plane:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)


def _maps(head: npt.NDArray[np.float32]) -> bytes:
    _, rows, columns = head.shape
    grey = np.asarray(np.clip(head, 0, 1) * 255, np.uint8)
    factor = max(1, -(-max(rows, columns) // _MAP_SIDE))
    size = (max(1, columns // factor), max(1, rows // factor))
    stacked = np.concatenate([_resized(grey[i], *size, cv2.INTER_AREA) for i in range(2)])
    return cv2.imencode(".jpg", stacked, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
