# SPDX-License-Identifier: Apache-2.0
"""What blend promises, beyond equality with its twin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cases import COLORS, EXAMPLES, FORMATS, Case, cases, random_frame, random_tensor, same_pixels
from hypothesis import given, settings
from hypothesis import strategies as st

from crispstream.frame import ChromaSiting, ColorSpec, Frame, Matrix, PixelFormat, Range
from crispstream.kernels import bindings
from crispstream.kernels.geometry import Geometry

GEOMETRY = Geometry.for_size(37, 21, pack=2, multiple=8, map_stride=4)


def plain_case(pixel_format: PixelFormat, color: ColorSpec | None = None, out: PixelFormat | None = None) -> Case:
    """A moderate residual on a 37 x 21 frame."""
    rng = np.random.default_rng(5)
    frame = random_frame(rng, pixel_format, (37, 21), color or ColorSpec())
    foreground, background = (random_tensor(rng, GEOMETRY.packed_shape, np.float32, 0.1, wild=False) for _ in range(2))
    head = rng.random(GEOMETRY.head_shape, np.float32)
    target = frame.empty_like() if out is None else random_frame(rng, out, (37, 21), frame.color)
    return Case(frame, GEOMETRY, head, foreground, background, target, {})


@pytest.mark.parametrize("color", COLORS, ids=lambda c: f"{c.matrix.name}-{c.range.name}-{c.siting.name}")
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_closed_gate_returns_every_byte(pixel_format: PixelFormat, color: ColorSpec) -> None:
    """Codes outside the nominal range included."""
    case = plain_case(pixel_format, color)
    case.head[0, 1] = 0
    assert case.blend(bindings) == 0
    assert same_pixels(case.out, case.frame)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_zero_strength_returns_every_byte(pixel_format: PixelFormat) -> None:
    case = dataclasses.replace(plain_case(pixel_format), options={"strength": 0.0})
    assert case.blend(bindings) == 0
    assert same_pixels(case.out, case.frame)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_no_branch_returns_every_byte(pixel_format: PixelFormat) -> None:
    case = dataclasses.replace(plain_case(pixel_format), foreground=None, background=None)
    case.head.fill(np.nan)
    assert case.blend(bindings) == 0
    assert same_pixels(case.out, case.frame)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_missing_branch_is_a_mask_of_one_value(pixel_format: PixelFormat) -> None:
    case = plain_case(pixel_format)
    expected = case.frame.empty_like()
    for missing, mask in (("foreground", 0.0), ("background", 1.0)):
        alone = dataclasses.replace(case, **{missing: None})
        alone.blend(bindings)
        case.head[0, 0] = mask
        case.blend(bindings, expected)
        assert same_pixels(alone.out, expected)


@settings(EXAMPLES, max_examples=100)
@given(case=cases(), threads=st.integers(1, 3))
def test_in_place(case: Case, threads: int) -> None:
    """Source and destination may be the same memory if format and colour agree."""
    apart = case.frame.empty_like()
    dropped = case.blend(bindings, apart)
    assert case.blend(bindings, case.frame, threads=threads) == dropped
    assert same_pixels(case.frame, apart)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_value_that_is_not_finite_is_dropped_and_counted(pixel_format: PixelFormat, value: float) -> None:
    case = plain_case(pixel_format)
    clean = case.frame.empty_like()
    case.foreground[0, :, 3, 4] = 0
    case.background[0, :, 3, 4] = 0
    assert case.blend(bindings, clean) == 0
    case.foreground[0, :, 3, 4] = value
    assert case.blend(bindings) == 12
    assert same_pixels(case.out, clean)


@pytest.mark.parametrize("channel", [0, 1])
def test_a_head_that_is_not_finite_costs_sharpness_only(channel: int) -> None:
    case = plain_case(PixelFormat.I420)
    case.head[0, channel] = np.nan
    assert case.blend(bindings) == 37 * 21 * 3
    assert same_pixels(case.out, case.frame)


def test_padding_is_not_counted() -> None:
    case = plain_case(PixelFormat.BGR24)
    frame_only = np.zeros((1, 3, 24, 40), bool)
    frame_only[..., :21, :37] = True
    padding = ~frame_only.reshape(1, 3, 12, 2, 20, 2).transpose(0, 1, 3, 5, 2, 4).reshape(GEOMETRY.packed_shape)
    case.foreground[padding] = np.nan
    case.background[padding] = np.inf
    assert case.blend(bindings) == 0


@pytest.mark.parametrize("pixel_format", [PixelFormat.NV12, PixelFormat.I420])
def test_an_overflow_in_chroma_leaves_the_code(pixel_format: PixelFormat) -> None:
    """Finite residuals whose sum is infinity minus infinity."""
    case = plain_case(pixel_format)
    case.head.fill(1)
    case.foreground.fill(3e38)
    case.foreground[0, 2::4] = -3e38
    case.foreground[0, 3::4] = -3e38
    assert case.blend(bindings) == 0
    for out, source in zip(case.out.planes[1:], case.frame.planes[1:], strict=True):
        assert np.array_equal(out[:10, :18], source[:10, :18])


def test_fading_moves_the_mask() -> None:
    """mask_gain 0 and mask_bias 1 show the foreground alone, halfway shows the mean of both."""
    case = plain_case(PixelFormat.RGB24)
    case.frame.planes[0].fill(128)
    case.head.fill(1)
    case.foreground.fill(0.25)
    case.background.fill(-0.25)
    for gain, bias, expected in ((0.0, 1.0, 192), (0.0, 0.5, 128), (0.0, 0.0, 64), (0.5, 0.0, 128), (1.0, 0.0, 192)):
        dataclasses.replace(case, options={"mask_gain": gain, "mask_bias": bias}).blend(bindings)
        assert np.all(case.out.planes[0] == expected)


def test_strength_scales_the_residual() -> None:
    case = plain_case(PixelFormat.BGR24)
    case.frame.planes[0].fill(100)
    case.head.fill(1)
    case.foreground.fill(0.2)
    for strength, expected in ((0.0, 100), (0.5, 126), (1.0, 151), (2.0, 202), (4.0, 255), (-1.0, 49)):
        dataclasses.replace(case, options={"strength": strength}, background=None).blend(bindings)
        assert np.all(case.out.planes[0] == expected)


def test_a_gray_residual_keeps_chroma() -> None:
    """Only luma moves where R, G and B move alike; 0.1 is 22 codes of 219."""
    gray = (np.full((21, 37), 90, np.uint8), np.full((11, 19), 70, np.uint8), np.full((11, 19), 170, np.uint8))
    for matrix in Matrix:
        frame = Frame(gray, PixelFormat.I420, ColorSpec(matrix, Range.LIMITED, ChromaSiting.LEFT))
        residual = np.full(GEOMETRY.packed_shape, 0.1, np.float32)
        head = np.ones(GEOMETRY.head_shape, np.float32)
        case = Case(frame, GEOMETRY, head, residual, None, frame.empty_like(), {})
        case.blend(bindings)
        assert [np.unique(plane).tolist() for plane in case.out.planes] == [[112], [70], [170]]


@pytest.mark.parametrize(("pixel_format", "out"), [(a, b) for a in FORMATS for b in FORMATS if a is not b])
def test_a_conversion_in_place_is_refused(pixel_format: PixelFormat, out: PixelFormat) -> None:
    case = plain_case(pixel_format, out=out)
    shared = np.empty((64, 128), np.uint8)
    views = [Frame(tuple(_view(shared, p.shape) for p in f.planes), f.format, f.color) for f in (case.frame, case.out)]
    with pytest.raises(ValueError, match="in place"):
        dataclasses.replace(case, frame=views[0]).blend(bindings, views[1])


def test_another_colour_in_place_is_refused() -> None:
    case = plain_case(PixelFormat.NV12)
    other = Frame(case.frame.planes, PixelFormat.NV12, ColorSpec(Matrix.BT601))
    with pytest.raises(ValueError, match="in place"):
        case.blend(bindings, other)


def _view(memory: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    inner = shape[1:]
    strides = (memory.strides[0], *(int(np.prod(inner[i + 1 :])) for i in range(len(inner))))
    return np.lib.stride_tricks.as_strided(memory, shape, strides)
