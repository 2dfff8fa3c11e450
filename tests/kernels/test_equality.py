# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels return the bytes of the NumPy twin, whatever comes in, here and on other processors (``residual``, a
convolution: its values within their rounding)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import (
    COLORS,
    EXAMPLES,
    FORMATS,
    Case,
    cases,
    geometries,
    random_frame,
    random_tensor,
    residual_tensors,
    residual_tolerance,
    same_pixels,
)
from foreign import PROCESSORS, ForeignKernels, Processor
from hypothesis import given, settings
from hypothesis import strategies as st

from crispstream.frame import ColorSpec, PixelFormat
from crispstream.kernels import bindings, reference
from crispstream.kernels.geometry import Geometry

SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module", params=[None, *PROCESSORS], ids=lambda p: p.name if p else "this processor")
def kernels(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The library itself, or its sources in an emulator."""
    processor: Processor | None = request.param
    if processor is None:
        yield bindings
        return
    if missing := processor.missing():
        pytest.skip(f"{processor.name}: {missing}")
    foreign = ForeignKernels(processor)
    yield foreign
    foreign.close()


@pytest.mark.parametrize("pixel_format", FORMATS)
@settings(EXAMPLES, max_examples=80)
@given(geometry=geometries(), color=st.sampled_from(COLORS), half=st.booleans(), seed=SEEDS)
def test_unpack(
    kernels: Any, pixel_format: PixelFormat, geometry: Geometry, color: ColorSpec, half: bool, seed: int
) -> None:
    frame = random_frame(np.random.default_rng(seed), pixel_format, (geometry.width, geometry.height), color)
    expected, found = np.empty((2, *geometry.packed_shape), np.float16 if half else np.float32)
    reference.unpack(frame, geometry, expected)
    for threads in (1, 2, 3):
        found.fill(-1)
        kernels.unpack(frame, geometry, found, threads)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_unpack_of_a_tensor_too_large_for_caches(pixel_format: PixelFormat, offset: int) -> None:
    """Past the caches where rows are aligned, through them where they are not: the same bytes, and none beside them."""
    frame = random_frame(np.random.default_rng(0), pixel_format, (2040, 710), COLORS[0])
    geometry = Geometry.for_size(2040, 710, pack=2, multiple=16, map_stride=8)
    expected = np.empty(geometry.packed_shape, np.float32)
    assert expected.nbytes >= 16 * 2**20
    reference.unpack(frame, geometry, expected)
    for threads in (1, 3):
        memory = np.full(expected.size + 40, -1, np.float32)
        start = -memory.ctypes.data // 4 % 16 + 16 + offset
        found = memory[start : start + expected.size].reshape(expected.shape)
        bindings.unpack(frame, geometry, found, threads)
        assert found.tobytes() == expected.tobytes()
        assert (memory[:start] == -1).all() and (memory[start + expected.size :] == -1).all()


@pytest.mark.parametrize("out_format", FORMATS)
@pytest.mark.parametrize("pixel_format", FORMATS)
@settings(EXAMPLES, max_examples=60)
@given(data=st.data())
def test_blend(kernels: Any, pixel_format: PixelFormat, out_format: PixelFormat, data: st.DataObject) -> None:
    case: Case = data.draw(cases(pixel_format, out_format))
    expected = case.out.empty_like()
    dropped = case.blend(reference, expected)
    for threads in (1, 2, 3):
        assert case.blend(kernels, threads=threads) == dropped
        assert same_pixels(case.out, expected)


@settings(EXAMPLES, max_examples=100)
@given(geometry=geometries(), half=st.booleans(), wild=st.booleans(), seed=SEEDS)
def test_statistics(kernels: Any, geometry: Geometry, half: bool, wild: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = random_tensor(rng, geometry.head_shape, np.float16 if half else np.float32, 1.0, wild)
    if 16 % geometry.map_stride:
        for implementation in (kernels, reference):
            with pytest.raises(ValueError, match="16"):
                implementation.statistics(geometry, head)
    else:
        assert kernels.statistics(geometry, head) == reference.statistics(geometry, head)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_code_and_chroma(kernels: Any, dtype: type) -> None:
    """Every luma code against every chroma code, in every colour, both roundings of the tensor."""
    size = (512, 256)
    geometry = Geometry.for_size(*size, pack=2, multiple=16, map_stride=4)
    luma = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 512, 1)
    u = np.repeat(np.arange(256, dtype=np.uint8)[None], 128, 0)
    for color in COLORS:
        frame = reference.Frame((luma, u, u[:, ::-1].copy()), PixelFormat.I420, color)
        expected, found = np.empty((2, *geometry.packed_shape), dtype)
        reference.unpack(frame, geometry, expected)
        kernels.unpack(frame, geometry, found)
        assert found.tobytes() == expected.tobytes()


def test_half_floats_of_every_magnitude(kernels: Any) -> None:
    """All 65536 half floats as residual: the portable conversion loses none."""
    geometry = Geometry.for_size(512, 128, pack=1, multiple=16, map_stride=16)
    values = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 1, 128, 512)
    residual = np.repeat(values, 3, 1)
    head = np.ones(geometry.head_shape, np.float16)
    rng = np.random.default_rng(0)
    frame = random_frame(rng, PixelFormat.BGR24, (512, 128), ColorSpec())
    case = Case(frame, geometry, head, residual, None, frame.empty_like(), {})
    expected = frame.empty_like()
    assert case.blend(kernels) == case.blend(reference, expected) == 3 * 2 * 1024
    assert same_pixels(case.out, expected)


def test_callers_in_many_threads() -> None:
    """The library has no state: concurrent calls do not disturb each other."""
    geometry = Geometry.for_size(96, 64, pack=2, multiple=16, map_stride=8)

    def work(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        frame = random_frame(rng, PixelFormat.NV12, (96, 64), ColorSpec())
        residual = random_tensor(rng, geometry.packed_shape, np.float32, 0.2, wild=True)
        head = rng.random(geometry.head_shape, np.float32)
        case = Case(frame, geometry, head, residual, residual, frame.empty_like(), {})
        expected = frame.empty_like()
        return case.blend(reference, expected) == case.blend(bindings) and same_pixels(case.out, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(32)))


@settings(EXAMPLES, max_examples=40)
@given(
    channels=st.integers(1, 9),
    outputs=st.integers(1, 14),
    height=st.integers(1, 8).map(lambda n: 2 * n),
    width=st.integers(1, 40).map(lambda n: 2 * n),
    threads=st.integers(1, 3),
    seed=SEEDS,
)
def test_residual(kernels: Any, channels: int, outputs: int, height: int, width: int, threads: int, seed: int) -> None:
    tensors = residual_tensors(np.random.default_rng(seed), channels, outputs, height, width)
    expected, found = np.full((2, 1, outputs, height, width), np.nan, np.float32)
    reference.residual(*tensors, expected)
    kernels.residual(*tensors, found, threads)
    np.testing.assert_allclose(found, expected, rtol=0, atol=residual_tolerance(channels))
