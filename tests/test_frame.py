# SPDX-License-Identifier: Apache-2.0
"""A frame is what its format says, or is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat, Plane, Range, plane_shapes

BGR, RGB, NV12, I420 = PixelFormat


def zeros(*shapes: tuple[int, ...]) -> tuple[Plane, ...]:
    return tuple(np.zeros(shape, np.uint8) for shape in shapes)


@pytest.mark.parametrize(
    ("pixel_format", "size", "shapes"),
    [
        (BGR, (5, 3), ((3, 5, 3),)),
        (RGB, (1, 1), ((1, 1, 3),)),
        (NV12, (6, 4), ((4, 6), (2, 3, 2))),
        (NV12, (5, 3), ((3, 5), (2, 3, 2))),
        (NV12, (1, 1), ((1, 1), (1, 1, 2))),
        (I420, (6, 4), ((4, 6), (2, 3), (2, 3))),
        (I420, (5, 4), ((4, 5), (2, 3), (2, 3))),
        (I420, (4, 3), ((3, 4), (2, 2), (2, 2))),
        (I420, (1, 1), ((1, 1), (1, 1), (1, 1))),
    ],
)
def test_plane_shapes(pixel_format: PixelFormat, size: tuple[int, int], shapes: tuple[tuple[int, ...], ...]) -> None:
    assert plane_shapes(pixel_format, *size) == shapes
    frame = Frame(zeros(*shapes), pixel_format)
    assert (frame.width, frame.height) == size


@pytest.mark.parametrize(
    ("planes", "pixel_format", "message"),
    [
        pytest.param((), BGR, "at least one non-empty plane", id="no plane"),
        pytest.param(zeros((12,)), BGR, "at least one non-empty plane", id="one dimension"),
        pytest.param(zeros((0, 4, 3)), BGR, "at least one non-empty plane", id="no row"),
        pytest.param(zeros((4, 0, 3)), BGR, "at least one non-empty plane", id="no column"),
        pytest.param(zeros((4, 4)), BGR, "BGR24 4x4 wants planes", id="grey as BGR24"),
        pytest.param(zeros((4, 4, 4)), RGB, "RGB24 4x4 wants planes", id="RGBA"),
        pytest.param(zeros((4, 4)), NV12, "NV12 4x4 wants planes", id="NV12 without chroma"),
        pytest.param(zeros((4, 4), (2, 2), (2, 2)), NV12, "NV12 4x4 wants planes", id="I420 as NV12"),
        pytest.param(zeros((4, 4), (2, 2, 2)), I420, "I420 4x4 wants planes", id="NV12 as I420"),
        pytest.param(zeros((3, 5), (1, 2), (1, 2)), I420, "I420 5x3 wants planes", id="chroma rounded down"),
        pytest.param(zeros((4, 4, 3), (4, 4, 3)), BGR, "BGR24 4x4 wants planes", id="a plane too many"),
        pytest.param((np.zeros((4, 4, 3), np.float32),), BGR, "planes are uint8, got float32", id="float"),
        pytest.param((np.zeros((4, 4, 3), np.int8),), BGR, "planes are uint8, got int8", id="signed"),
        pytest.param(
            (*zeros((4, 4), (2, 2)), np.zeros((2, 2), np.uint16)), I420, "planes are uint8, got uint16", id="deep V"
        ),
        pytest.param((zeros((4, 8, 3))[0][:, ::2],), BGR, "must be contiguous", id="every other column"),
        pytest.param((zeros((4, 4, 3))[0][..., ::-1],), BGR, "must be contiguous", id="channels turned"),
        pytest.param((zeros((4, 4, 3))[0][::-1],), BGR, "must not overlap", id="upside down"),
        pytest.param(
            (as_strided(zeros((64,))[0], (4, 4, 3), (6, 3, 1)),), BGR, "must not overlap", id="rows that overlap"
        ),
        pytest.param((np.broadcast_to(zeros((1, 4, 3))[0], (4, 4, 3)),), BGR, "must not overlap", id="one row for all"),
        pytest.param((*zeros((4, 4)), zeros((2, 4, 2))[0][:, ::2]), NV12, "must be contiguous", id="spaced chroma"),
    ],
)
def test_planes_that_are_no_frame(planes: tuple[Plane, ...], pixel_format: PixelFormat, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frame(planes, pixel_format)


def test_rows_may_be_padded() -> None:
    padded = np.zeros((4, 16, 3), np.uint8)[:, :5]
    assert Frame((padded,), BGR).planes[0] is padded
    assert Frame.from_array(padded).planes[0] is padded
    assert Frame((padded[:1, :, :],), BGR).height == 1


@pytest.mark.parametrize("pixel_format", [BGR, RGB])
def test_from_array_wraps(pixel_format: PixelFormat) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    frame = Frame.from_array(array, pixel_format)
    assert frame.planes[0] is array
    assert (frame.format, frame.width, frame.height, frame.color.range) == (pixel_format, 5, 4, Range.FULL)
    assert frame.seconds is None and not frame.info and not frame.discontinuity


@pytest.mark.parametrize("turn", [np.s_[::-1], np.s_[:, ::-1], np.s_[..., ::-1], np.s_[:, ::2]])
def test_from_array_copies_what_its_rows_do_not_allow(turn: slice) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    frame = Frame.from_array(array[turn])
    assert np.array_equal(frame.planes[0], array[turn])
    assert not np.shares_memory(frame.planes[0], array)


@pytest.mark.parametrize(
    ("array", "pixel_format", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), NV12, "BGR24 or RGB24"),
        (np.zeros((4, 5, 3), np.uint8), I420, "BGR24 or RGB24"),
        (np.zeros((4, 5), np.uint8), BGR, r"got \(4, 5\) uint8"),
        (np.zeros((4, 5, 4), np.uint8), BGR, r"got \(4, 5, 4\) uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), BGR, r"got \(1, 4, 5, 3\) uint8"),
        (np.zeros((4, 5, 3), np.float32), BGR, r"got \(4, 5, 3\) float32"),
        (np.zeros((0, 5, 3), np.uint8), BGR, "non-empty"),
    ],
)
def test_from_array_refuses(array: Plane, pixel_format: PixelFormat, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frame.from_array(array, pixel_format)


@pytest.mark.parametrize(
    ("pts", "time_base", "seconds"),
    [
        (None, None, None),
        (3, None, None),
        (None, Fraction(1, 25), None),
        (0, Fraction(1, 25), Fraction(0)),
        (-1, Fraction(1, 25), Fraction(-1, 25)),
        (3, Fraction(1001, 30000), Fraction(1001, 10000)),
    ],
)
def test_seconds_are_exact(pts: int | None, time_base: Fraction | None, seconds: Fraction | None) -> None:
    assert Frame(zeros((2, 2, 3)), BGR, pts=pts, time_base=time_base).seconds == seconds


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_empty_like_has_everything_but_the_pixels(pixel_format: PixelFormat) -> None:
    frame = Frame(
        tuple(np.zeros((s[0], s[1] + 3, *s[2:]), np.uint8)[:, : s[1]] for s in plane_shapes(pixel_format, 5, 3)),
        pixel_format,
        ColorSpec(Matrix.BT601, Range.FULL, primaries=5, transfer=6),
        pts=7,
        time_base=Fraction(1, 25),
        duration=1,
        discontinuity=True,
        info={"path": "a.png"},
    )
    made = frame.empty_like()
    assert [p.shape for p in made.planes] == [p.shape for p in frame.planes]
    for mine, other in zip(made.planes, frame.planes, strict=True):
        assert mine.flags.c_contiguous and mine.flags.writeable and not np.shares_memory(mine, other)
    for name in ("format", "color", "pts", "time_base", "duration", "discontinuity", "info"):
        assert getattr(made, name) == getattr(frame, name), name
