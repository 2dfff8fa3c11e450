# SPDX-License-Identifier: Apache-2.0
"""Colour against float64 formulas written from the standards, and against libswscale."""

from __future__ import annotations

import ctypes

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorRange, Colorspace
from cases import COLORS

from crispstream.frame import ChromaSiting, ColorSpec, Frame, Matrix, PixelFormat, Range, plane_shapes
from crispstream.kernels import bindings, reference
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import cpu_library

BARS = np.array([(r, g, b) for r in (0, 191, 255) for g in (0, 191, 255) for b in (0, 191, 255)], np.uint8)
# E'Y, E'Cb, E'Cr from E'R, E'G, E'B as printed: BT.601-7 table 1, BT.709-6 item 3.2-3.3, BT.2020-2 table 4.
PRINTED = {Matrix.BT601: (0.299, 0.114), Matrix.BT709: (0.2126, 0.0722), Matrix.BT2020: (0.2627, 0.0593)}
F64 = npt.NDArray[np.float64]


def exact_codes(rgb: F64, color: ColorSpec) -> F64:
    """Y, Cb, Cr codes, not rounded, of R'G'B' in [0, 1]."""
    kr, kb = PRINTED[color.matrix]
    y = kr * rgb[..., 0] + (1 - kr - kb) * rgb[..., 1] + kb * rgb[..., 2]
    cb, cr = (rgb[..., 2] - y) / (2 - 2 * kb), (rgb[..., 0] - y) / (2 - 2 * kr)
    if color.range is Range.LIMITED:
        return np.stack((219 * y + 16, 224 * cb + 128, 224 * cr + 128), -1)
    return np.stack((255 * y, 255 * cb + 128, 255 * cr + 128), -1)


def exact_rgb(codes: F64, color: ColorSpec) -> F64:
    """The inverse, by solving the linear system; clamped to [0, 1]."""
    origin = exact_codes(np.zeros(3), color)
    matrix = exact_codes(np.eye(3), color) - origin
    return np.clip((codes - origin) @ np.linalg.inv(matrix), 0, 1)


def flat(codes: npt.NDArray[np.uint8], color: ColorSpec) -> Frame:
    """A 6 x 4 I420 frame of one colour."""
    y, u, v = (np.full(s, c, np.uint8) for s, c in zip(((4, 6), (2, 3), (2, 3)), codes, strict=True))
    return Frame((y, u, v), PixelFormat.I420, color)


def convert(frame: Frame, pixel_format: PixelFormat, color: ColorSpec) -> Frame:
    """The frame in another format: a blend with no branch."""
    planes = tuple(np.empty(s, np.uint8) for s in plane_shapes(pixel_format, frame.width, frame.height))
    out = Frame(planes, pixel_format, color)
    geometry = Geometry.for_size(frame.width, frame.height, pack=2, multiple=8, map_stride=4)
    bindings.blend(frame, geometry, np.zeros(geometry.head_shape, np.float32), None, None, out)
    return out


def unpacked(frame: Frame) -> npt.NDArray[np.float32]:
    """RGB of the frame, (H, W, 3)."""
    geometry = Geometry.for_size(frame.width, frame.height, pack=1, multiple=1, map_stride=1)
    packed = np.empty(geometry.packed_shape, np.float32)
    bindings.unpack(frame, geometry, packed)
    return packed[0].transpose(1, 2, 0)


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.matrix.name}-{c.range.name}-{c.siting.name}")
def test_bars_decode_as_the_standards_say(color: ColorSpec) -> None:
    for bar in BARS:
        codes = np.rint(exact_codes(bar / 255, color)).clip(0, 255).astype(np.uint8)
        expected = exact_rgb(codes.astype(np.float64), color)
        assert np.abs(unpacked(flat(codes, color)) - expected).max() < 1e-6


@pytest.mark.parametrize("color", COLORS[::2], ids=lambda c: f"{c.matrix.name}-{c.range.name}")
def test_bars_encode_as_the_standards_say(color: ColorSpec) -> None:
    for bar in BARS:
        picture = Frame.from_array(np.tile(bar, (5, 7, 1)), PixelFormat.RGB24)
        expected = exact_codes(bar / 255, color)
        for plane, code in zip(convert(picture, PixelFormat.I420, color).planes, expected, strict=True):
            assert np.abs(plane - min(code, 255)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.matrix.name}-{c.range.name}-{c.siting.name}")
@pytest.mark.parametrize("pixel_format", [PixelFormat.NV12, PixelFormat.I420])
def test_flat_colours_survive_the_way_there_and_back(pixel_format: PixelFormat, color: ColorSpec) -> None:
    """Half a code of Y and of chroma is what 8 bits lose: at most 2 codes of RGB."""
    for bar in BARS:
        picture = Frame.from_array(np.tile(bar, (4, 6, 1)), PixelFormat.BGR24)
        back = convert(convert(picture, pixel_format, color), PixelFormat.BGR24, ColorSpec())
        assert np.abs(back.planes[0].astype(int) - bar).max() <= 2


@pytest.mark.parametrize("out", [PixelFormat.RGB24, PixelFormat.BGR24])
def test_packed_formats_convert_without_loss(out: PixelFormat) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    source = PixelFormat.BGR24 if out is PixelFormat.RGB24 else PixelFormat.RGB24
    assert np.array_equal(convert(Frame.from_array(codes, source), out, ColorSpec()).planes[0], codes[..., ::-1])


def test_chroma_is_averaged_over_the_samples_that_exist() -> None:
    """A 3 x 3 picture: the last column and row have fewer luma samples under their chroma."""
    color = ColorSpec(Matrix.BT709, Range.FULL)
    rgb = np.random.default_rng(1).integers(0, 256, (3, 3, 3), np.uint8)
    u, v = convert(Frame.from_array(rgb, PixelFormat.RGB24), PixelFormat.I420, color).planes[1:]
    for y in range(2):
        for x in range(2):
            mean = rgb[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1, 3).mean(0) / 255
            _, cb, cr = exact_codes(mean, color)
            assert abs(u[y, x] - cb) <= 0.5 + 1e-4 and abs(v[y, x] - cr) <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("siting", "expected"),
    [
        (ChromaSiting.LEFT, [40, 80, 120, 120]),
        (ChromaSiting.CENTER, [40, 60, 100, 120]),
    ],
)
def test_chroma_lies_at_its_siting(siting: ChromaSiting, expected: list[int]) -> None:
    """Two chroma columns, 40 and 120, seen from four luma columns; rows 3:1 whatever the siting."""
    gray = np.full((4, 4), 128, np.uint8)
    columns, rows = np.array([[40, 120], [40, 120]], np.uint8), np.array([[40, 40], [120, 120]], np.uint8)
    color = ColorSpec(Matrix.BT601, Range.FULL, siting)
    constants = reference.Color.of(color.matrix, color.range)
    for chroma, axis, codes in ((columns, 1, expected), (rows, 0, [40, 60, 100, 120])):
        red = unpacked(Frame((gray, np.full_like(chroma, 128), chroma), PixelFormat.I420, color))[..., 0]
        wanted = 128 / 255 + (np.array(codes) - 128.0) * float(constants.rv)
        assert np.abs(red.take(1, 1 - axis) - wanted.clip(0, 1)).max() < 1e-6


@pytest.mark.parametrize("code_range", list(Range))
@pytest.mark.parametrize(
    ("matrix", "colorspace"),
    [(Matrix.BT601, Colorspace.ITU601), (Matrix.BT709, Colorspace.ITU709), (Matrix.BT2020, Colorspace.BT2020)],
)
def test_libswscale_agrees(matrix: Matrix, colorspace: Colorspace, code_range: Range) -> None:
    """Flat colours: matrix and range alone matter. Its tables err by up to 3 codes, a wrong matrix by 20."""
    color = ColorSpec(matrix, code_range)
    for bar in BARS:
        frame = flat(np.rint(exact_codes(bar / 255, color)).clip(0, 255).astype(np.uint8), color)
        video = av.VideoFrame(6, 4, "yuv420p")
        for plane, codes in zip(video.planes, frame.planes, strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : codes.shape[1]] = codes
            plane.update(rows.tobytes())
        theirs = video.reformat(
            format="rgb24",
            src_colorspace=colorspace,
            src_color_range=ColorRange.JPEG if code_range is Range.FULL else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
        ).to_ndarray()
        ours = convert(frame, PixelFormat.RGB24, ColorSpec()).planes[0]
        assert np.abs(ours.astype(int) - theirs).max() <= 4


@pytest.mark.parametrize("code_range", list(Range))
@pytest.mark.parametrize("matrix", list(Matrix))
def test_the_twin_has_the_constants_of_the_library(matrix: Matrix, code_range: Range) -> None:
    found = (ctypes.c_float * len(reference.Color._fields))()
    assert cpu_library().crispstream_color(matrix, code_range, found) == 0
    assert list(found) == [float(x) for x in reference.Color.of(matrix, code_range)]
