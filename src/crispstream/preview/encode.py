# SPDX-License-Identifier: Apache-2.0
"""A shot as viewers get it: one binary message, so that both sides of the divider are of one frame."""

from __future__ import annotations

import json
import struct
from typing import Any

import cv2
import numpy as np

from crispstream.frame import ColorSpec, Frame, PixelFormat, Plane, Range
from crispstream.kernels.bindings import blend
from crispstream.kernels.geometry import Geometry
from crispstream.live.protocol import Shot
from crispstream.orientation import upright

MAX_WIDTH = 1280
"""Columns of the widest picture that is sent."""
QUALITY = 88
"""Of JPEG, 0 to 100: what the stream restores is fine detail, which a lower quality takes away again."""
_MAP_SIDE = 160


def jpeg(frame: Frame) -> bytes:
    """The frame, upright, as JPEG (ITU-T T.81; BT.601 full range, as JFIF says), at most MAX_WIDTH wide."""
    pixels = _reduced(_bgr(upright(frame)))
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

    All of it is upright. The header tells ``number``, ``width`` and ``height`` of the frame in pixels, the ``sizes`` of
    the three parts in bytes, and how many times the frame's width and height the maps ``cover``: they are grey, person
    mask above blur gate, and may reach beyond the right and lower edge. Without maps the third part is empty.
    """
    before, maps, cover = upright(shot.before), b"", (0.0, 0.0)
    if shot.head is not None:
        _, rows, columns = shot.head.shape
        cover = (columns * shot.map_stride / shot.before.width, rows * shot.map_stride / shot.before.height)
        grey = np.asarray(np.clip(shot.head, 0, 1) * 255, np.uint8)
        if before is not shot.before:
            grey, cover = _turned(grey, cover, shot.before), (1.0, 1.0)
        maps = _maps(grey)
    parts = (jpeg(before), jpeg(shot.after), maps)
    header: dict[str, Any] = {
        "number": shot.number,
        "width": before.width,
        "height": before.height,
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


def _turned(grey: Plane, cover: tuple[float, float], frame: Frame) -> Plane:
    """The maps turned as ``upright`` turns the frame, and stretched so that they end where it does: a turn would bring
    what reaches beyond its right edge to the left."""
    _, rows, columns = grey.shape
    x, y = 1 / cover[0], 1 / cover[1]
    part = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])  # the centre of a cell lies at whole numbers
    how, edge = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    three = np.dstack((*grey, grey[1]))  # as many as a picture has
    cells = np.asarray(cv2.warpAffine(three, part, (columns, rows), flags=how, borderMode=edge), np.uint8)
    turned = upright(Frame((cells,), PixelFormat.BGR24, info=frame.info))
    return np.ascontiguousarray(np.moveaxis(turned.planes[0], 2, 0)[:2])


def _maps(grey: Plane) -> bytes:
    _, rows, columns = grey.shape
    factor = max(1, -(-max(rows, columns) // _MAP_SIDE))
    size = (max(1, columns // factor), max(1, rows // factor))
    stacked = np.concatenate([_resized(grey[i], *size, cv2.INTER_AREA) for i in range(2)])
    return cv2.imencode(".jpg", stacked, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
