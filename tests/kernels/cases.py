# SPDX-License-Identifier: Apache-2.0
"""Frames and tensors for the kernel tests, drawn by hypothesis or made from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from crispstream.frame import ChromaSiting, ColorSpec, Frame, Matrix, PixelFormat, Range, plane_shapes
from crispstream.kernels.geometry import Geometry

Tensor = npt.NDArray[Any]
FORMATS = tuple(PixelFormat)
COLORS = tuple(ColorSpec(m, r, s) for m in Matrix for r in Range for s in ChromaSiting)
EXAMPLES = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same examples in every run, however long a busy machine takes to draw them: what a change breaks shows with that
change, not with a later one."""
EXTREMES = (np.nan, np.inf, -np.inf, 65504.0, -65504.0, 1e36, 3e38, -3e38, 1e-7, 1e-40, 0.0, -0.0)


def random_frame(rng: np.random.Generator, pixel_format: PixelFormat, size: tuple[int, int], color: ColorSpec) -> Frame:
    """Noise of ``size`` (width, height); rows lie a random number of bytes apart."""
    planes = []
    for height, *inner in plane_shapes(pixel_format, *size):
        row = math.prod(inner)
        memory = rng.integers(0, 256, (height, row + int(rng.integers(0, 40))), np.uint8)
        strides = (memory.strides[0], *(math.prod(inner[i + 1 :]) for i in range(len(inner))))
        planes.append(np.lib.stride_tricks.as_strided(memory, (height, *inner), strides))
    return Frame(tuple(planes), pixel_format, color)


def random_tensor(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, scale: float, wild: bool) -> Tensor:
    """Normal noise; where ``wild``, one value in sixteen is not finite, huge, tiny or zero."""
    values = rng.normal(0, scale, shape)
    if wild:
        values = np.where(rng.random(shape) < 1 / 16, rng.choice(EXTREMES, shape), values)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@dataclass(frozen=True)
class Case:
    """Everything that one call of blend takes."""

    frame: Frame
    geometry: Geometry
    head: Tensor
    foreground: Tensor | None
    background: Tensor | None
    out: Frame
    options: dict[str, float]

    def blend(self, kernels: Any, out: Frame | None = None, **more: int) -> int:
        """Run the blend of ``bindings`` or ``reference`` into ``out``."""
        arguments = (self.frame, self.geometry, self.head, self.foreground, self.background, out or self.out)
        dropped: int = kernels.blend(*arguments, **self.options, **more)
        return dropped


sizes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 70), st.integers(1, 40)),
    st.sampled_from([(1, 33), (65, 1), (64, 32), (63, 31)]),
)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any size, packing and map stride that fit together, not only those of the presets."""
    width, height = draw(sizes)
    pack, map_stride = draw(st.sampled_from([2, 4, 1, 3])), draw(st.sampled_from([4, 8, 16, 2, 1, 5]))
    multiple = math.lcm(pack, map_stride) * draw(st.sampled_from([1, 2]))
    return Geometry.for_size(width, height, pack=pack, multiple=multiple, map_stride=map_stride)


@st.composite
def preset_geometries(draw: st.DrawFn) -> Geometry:
    """The packing and map stride of the presets; also frames that are wider than a block of GPU threads."""
    width, height = draw(st.one_of(sizes, st.sampled_from([(255, 9), (300, 5), (264, 24), (520, 3)])))
    return Geometry.for_size(width, height, pack=2, multiple=8 * draw(st.integers(1, 2)), map_stride=8)


@st.composite
def cases(
    draw: st.DrawFn,
    pixel_format: PixelFormat | None = None,
    out_format: PixelFormat | None = None,
    geometry: Geometry | None = None,
    dtype: Any = None,
) -> Case:
    """A blend between two formats (any where None), wild values and missing branches included."""
    geometry = geometry or draw(geometries())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = dtype or draw(st.sampled_from([np.float32, np.float16]))
    wild = draw(st.booleans())
    color, out_color = draw(st.sampled_from(COLORS)), draw(st.sampled_from(COLORS))
    size = (geometry.width, geometry.height)
    source = random_frame(rng, draw(st.sampled_from(FORMATS)) if pixel_format is None else pixel_format, size, color)
    formats = st.sampled_from(FORMATS)
    out = random_frame(
        rng,
        draw(formats) if out_format is None else out_format,
        size,
        color if draw(st.booleans()) else out_color,
    )
    scale = draw(st.sampled_from([0.05, 0.5, 5.0]))
    branches = [
        random_tensor(rng, geometry.packed_shape, dtype, scale, wild) if present else None
        for present in draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True), (False, False)]))
    ]
    head = rng.random(geometry.head_shape).astype(dtype)
    if wild:
        head = random_tensor(rng, geometry.head_shape, dtype, 1.0, wild)
    options = {
        "strength": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        "mask_gain": draw(st.sampled_from([0.0, 0.25, 1.0])),
        "mask_bias": draw(st.sampled_from([0.0, 0.5, 1.0])),
    }
    return Case(source, geometry, head, branches[0], branches[1], out, options)


def same_pixels(a: Frame, b: Frame) -> bool:
    """True where every byte agrees; padding between rows does not count."""
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def residual_tensors(rng: np.random.Generator, channels: int, outputs: int, height: int, width: int) -> list[Tensor]:
    """Features, factors, weight and bias for ``residual``: normal numbers."""
    shapes = (
        (1, channels, height, width),
        (1, channels, height // 2, width // 2),
        (outputs, channels, 3, 3),
        (outputs,),
    )
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def residual_tolerance(channels: int) -> float:
    """Of sums of 9 C products of normal numbers, in float32: far above its rounding, far below one wrong tap."""
    return 1e-5 * (9 * channels) ** 0.5
