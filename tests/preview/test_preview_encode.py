# SPDX-License-Identifier: Apache-2.0
"""What a viewer is sent: the right colours, the right size, maps that lie where they belong."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from preview_stub import drawn_shot

from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat, Range, plane_shapes
from crispstream.live.protocol import Shot
from crispstream.preview import encode
from crispstream.tags import VideoTags


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def parts(shot: Shot) -> tuple[dict, list[bytes]]:
    message = encode.message(shot)
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    at, found = 4 + length, []
    for size in header["sizes"]:
        found.append(message[at : at + size])
        at += size
    assert at == len(message)
    return header, found


def test_both_sides_and_maps_are_of_one_shot() -> None:
    header, (before, after, maps) = parts(drawn_shot(7, 640, 360))
    assert (header["number"], header["width"], header["height"]) == (7, 640, 360)
    assert np.allclose(decoded(before).mean((0, 1)), (120, 0, 0), atol=3)
    assert np.allclose(decoded(after).mean((0, 1)), (0, 120, 0), atol=3)
    stacked = decoded(maps).astype(float)
    person, blur = np.split(stacked, 2)
    # The network pads 360 rows to 368.
    assert header["cover"] == [1.0, pytest.approx(368 / 360)]
    assert person[:, : person.shape[1] // 2 - 2].mean() > 250 and person[:, person.shape[1] // 2 + 2 :].mean() < 5
    assert blur.mean() == pytest.approx(127, abs=3)


def test_without_maps() -> None:
    header, (_, _, maps) = parts(replace(drawn_shot(), head=None))
    assert maps == b"" and header["sizes"][2] == 0


# a, b, c, d of the display matrix, and where that brings the first column and the first row.
TURNS = [
    ((0, 1, -1, 0), "clockwise"),
    ((0, -1, 1, 0), "anticlockwise"),
    ((-1, 0, 0, -1), "about"),
    ((-1, 0, 0, 1), "mirrored"),
]


def turned(pixels: np.ndarray, how: str) -> np.ndarray:
    return {
        "clockwise": np.rot90(pixels, -1),
        "anticlockwise": np.rot90(pixels),
        "about": np.rot90(pixels, 2),
        "mirrored": pixels[:, ::-1],
    }[how]


@pytest.mark.parametrize(("matrix", "how"), TURNS)
def test_a_turned_film_is_upright_with_its_maps(matrix: tuple[int, int, int, int], how: str) -> None:
    """A person fills columns 96 to 143 of 152: the maps' last cells reach 8 columns beyond the frame."""
    a, b, c, d = (value << 16 for value in matrix)
    info = {"video_tags": VideoTags(display_matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))}
    codes = np.zeros((96, 152, 3), np.uint8)
    codes[:, 96:144] = 255
    codes[64:, 0:32] = 128
    frame = replace(Frame.from_array(codes), info=info)
    head = np.zeros((2, 6, 10), np.float32)
    head[0, :, 6:9] = 1
    head[1, 4:, 0:2] = 1
    header, (before, after, maps) = parts(Shot(frame, frame, 0.0, 7, head, map_stride=16))
    expected = turned(codes, how).astype(float)
    assert (header["width"], header["height"]) == (expected.shape[1], expected.shape[0])
    for side in (before, after, encode.jpeg(frame)):
        assert np.abs(decoded(side) - expected).mean() < 3
    assert header["cover"] == [1.0, 1.0]
    size = (expected.shape[1], expected.shape[0])
    person, blur = (np.asarray(Image.fromarray(part).resize(size)) > 127 for part in np.split(decoded(maps), 2))
    assert (person != (expected[..., 0] > 200)).mean() < 0.05
    assert (blur != (np.abs(expected[..., 0] - 128) < 50)).mean() < 0.05


@pytest.mark.parametrize("size", [(1280, 720), (1281, 721), (1920, 1080), (3840, 2160), (5000, 16), (3, 2)])
def test_a_picture_is_at_most_1280_wide_and_keeps_its_shape(size: tuple[int, int]) -> None:
    width, height = size
    rows, columns, _ = decoded(encode.jpeg(drawn_shot(0, width, height).before)).shape
    assert columns == min(width, 1280)
    assert rows == pytest.approx(height * columns / width, abs=1)


@pytest.mark.parametrize("matrix", list(Matrix))
@pytest.mark.parametrize("code_range", list(Range))
@pytest.mark.parametrize("pixel_format", [PixelFormat.I420, PixelFormat.NV12])
def test_grey_stays_grey(pixel_format: PixelFormat, matrix: Matrix, code_range: Range) -> None:
    planes = [np.full(shape, 128, np.uint8) for shape in plane_shapes(pixel_format, 63, 35)]
    planes[0][:] = 235 if code_range is Range.LIMITED else 255
    frame = Frame(tuple(planes), pixel_format, ColorSpec(matrix, code_range))
    assert decoded(encode.jpeg(frame)).min() >= 253


def test_red_of_bt709_is_red() -> None:
    shapes = plane_shapes(PixelFormat.I420, 64, 32)
    planes = tuple(np.full(shape, code, np.uint8) for shape, code in zip(shapes, (63, 102, 240), strict=True))
    frame = Frame(planes, PixelFormat.I420, ColorSpec(Matrix.BT709, Range.LIMITED))
    assert np.allclose(decoded(encode.jpeg(frame)).mean((0, 1)), (255, 0, 0), atol=4)
    rgb = Frame.from_array(np.full((32, 64, 3), (200, 100, 50), np.uint8), PixelFormat.RGB24)
    assert np.allclose(decoded(encode.jpeg(rgb)).mean((0, 1)), (200, 100, 50), atol=3)
