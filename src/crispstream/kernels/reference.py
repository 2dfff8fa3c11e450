# SPDX-License-Identifier: Apache-2.0
"""The NumPy twin of the pixel kernels: same functions as ``bindings.py``, same bytes (but for
``residual``, a convolution), written to be read.

float32 in the order that ``docs/kernels.md`` gives, whole arrays instead of rows, no threads. Tests hold every other
implementation equal to this one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from crispstream.frame import ChromaSiting, Frame, Matrix, PixelFormat, Range
from crispstream.kernels.checks import check_blend, check_head, check_packed, check_residual
from crispstream.kernels.geometry import Geometry

F32 = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.floating]

# Kr and Kb of ITU-R BT.601-7, BT.709-6 and BT.2020-2.
_PRIMARIES = {Matrix.BT601: (0.299, 0.114), Matrix.BT709: (0.2126, 0.0722), Matrix.BT2020: (0.2627, 0.0593)}
_UNIT = np.float32(1) / np.float32(255)


class Color(NamedTuple):
    """float32 constants of one matrix and range, in the order of ``crispstream_color``."""

    kr: np.float32
    kg: np.float32
    kb: np.float32
    ur: np.float32
    ug: np.float32
    ub: np.float32
    vr: np.float32
    vg: np.float32
    vb: np.float32
    rv: np.float32
    gu: np.float32
    gv: np.float32
    bu: np.float32
    y_offset: np.float32
    y_unit: np.float32
    y_codes: np.float32
    c_codes: np.float32

    @classmethod
    def of(cls, matrix: Matrix, code_range: Range) -> Color:
        """Computed in double by the formulas of ITU-T H.273, rounded once."""
        kr, kb = _PRIMARIES[matrix]
        kg = 1.0 - kr - kb
        cr, cb = 2.0 * (1.0 - kr), 2.0 * (1.0 - kb)
        full = code_range is Range.FULL
        y_codes, c_codes = (255.0, 255.0) if full else (219.0, 224.0)
        luma, u, v = (kr, kg, kb), (-kr / cb, -kg / cb, 0.5), (0.5, -kg / cr, -kb / cr)
        rgb = (cr / c_codes, -cb * kb / kg / c_codes, -cr * kr / kg / c_codes, cb / c_codes)
        codes = (0.0 if full else 16.0, 1.0 / y_codes, y_codes, c_codes)
        return cls(*(np.float32(x) for x in (*luma, *u, *v, *rgb, *codes)))


def unpack(frame: Frame, geometry: Geometry, packed: Tensor, threads: int = 0) -> None:
    """``bindings.unpack`` in NumPy; ``threads`` is ignored."""
    check_packed(frame, geometry, packed)
    below, right = geometry.padded_height - frame.height, geometry.padded_width - frame.width
    rgb = np.pad(_decode(frame), ((0, below), (0, right), (0, 0)), mode="edge")
    s, height, width = geometry.pack, packed.shape[2], packed.shape[3]
    cells = rgb.reshape(height, s, width, s, 3).transpose(4, 1, 3, 0, 2)
    packed[...] = cells.reshape(packed.shape)


def blend(
    frame: Frame,
    geometry: Geometry,
    head: Tensor,
    foreground: Tensor | None,
    background: Tensor | None,
    out: Frame,
    strength: float = 1.0,
    mask_gain: float = 1.0,
    mask_bias: float = 0.0,
    threads: int = 0,
) -> int:
    """``bindings.blend`` in NumPy; ``threads`` is ignored."""
    check_blend(frame, geometry, head, foreground, background, out)
    with np.errstate(all="ignore"):
        mask, gate = (_upsample_map(m, geometry.map_stride) for m in head[0].astype(np.float32))
        mask = np.float32(mask_gain) * mask + np.float32(mask_bias)
        gate = np.float32(strength) * gate
        shape = (geometry.padded_height, geometry.padded_width, 3)
        d = np.zeros(shape, np.float32)
        if foreground is not None and background is not None:
            people, rest = _depth_to_space(foreground, geometry), _depth_to_space(background, geometry)
            d = gate[..., None] * (mask[..., None] * people + (np.float32(1) - mask[..., None]) * rest)
        elif (only := background if foreground is None else foreground) is not None:
            d = gate[..., None] * _depth_to_space(only, geometry)
        d = d[: frame.height, : frame.width]
        finite = np.isfinite(d)
        d = np.where(finite, d, np.float32(0))
        _encode(frame, d, out)
    return int(d.size - np.count_nonzero(finite))


def statistics(geometry: Geometry, head: Tensor) -> tuple[float, float]:
    """``bindings.statistics`` in NumPy."""
    check_head(geometry, head)
    if 16 % geometry.map_stride:
        raise ValueError(f"map stride {geometry.map_stride} does not divide 16")
    side = 16 // geometry.map_stride
    mask, gate = head[0].astype(np.float32)
    with np.errstate(all="ignore"):
        people = _cell_means(gate * mask, side)
        rest = _cell_means(gate * (np.float32(1) - mask), side)
    found = [float(np.max(np.where(np.isfinite(m), m, 0), initial=0)) for m in (people, rest)]
    return found[0], found[1]


def residual(features: F32, factors: F32, weight: F32, bias: F32, out: F32, threads: int = 1) -> None:
    """See ``bindings.residual``: equal within the rounding of sums, which are taken in double here."""
    check_residual(features, factors, weight, bias, out)
    product = np.pad(features[0] * factors[0].repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(product, (3, 3), axis=(1, 2))
    out[0] = np.einsum("chwyx,ocyx->ohw", windows, weight, dtype=np.float64, optimize=True) + bias[:, None, None]


def _cell_means(values: F32, side: int) -> F32:
    height, width = values.shape
    rows, columns = -(-height // side), -(-width // side)
    padded = np.zeros((rows * side, columns * side), np.float32)
    counts = np.zeros_like(padded)
    padded[:height, :width], counts[:height, :width] = values, 1
    total, count = np.zeros((2, rows, columns), np.float32)
    for y in range(side):
        for x in range(side):
            total = total + padded[y::side, x::side]
            count = count + counts[y::side, x::side]
    means: F32 = total / count
    return means


def _decode(frame: Frame) -> F32:
    """RGB in [0, 1], (H, W, 3)."""
    if not frame.format.is_yuv:
        codes = frame.planes[0] if frame.format is PixelFormat.RGB24 else frame.planes[0][..., ::-1]
        unit: F32 = codes.astype(np.float32) * _UNIT
        return unit
    color = Color.of(frame.color.matrix, frame.color.range)
    y = (frame.planes[0].astype(np.float32) - color.y_offset) * color.y_unit
    u, v = (_upsample_chroma(plane, frame) for plane in _chroma(frame))
    rgb = np.stack((y + v * color.rv, (y + u * color.gu) + v * color.gv, y + u * color.bu), axis=-1)
    return np.clip(rgb, np.float32(0), np.float32(1))


def _chroma(frame: Frame) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Views of U and V."""
    if frame.format is PixelFormat.NV12:
        return frame.planes[1][..., 0], frame.planes[1][..., 1]
    return frame.planes[1], frame.planes[2]


def _upsample_chroma(plane: npt.NDArray[np.uint8], frame: Frame) -> F32:
    """Bilinear at the frame's siting, in exact sixteenths of a code, around 0."""
    codes = plane.astype(np.int32)
    y, x = np.arange(frame.height), np.arange(frame.width)
    far = np.clip(y // 2 + np.where(y % 2, 1, -1), 0, codes.shape[0] - 1)
    rows = 3 * codes[y // 2] + codes[far]
    if frame.color.siting is ChromaSiting.CENTER:
        weight, other = np.full_like(x, 3), x // 2 + np.where(x % 2, 1, -1)
    else:
        weight, other = np.where(x % 2, 2, 4), x // 2 + 1
    other = np.clip(other, 0, codes.shape[1] - 1)
    sixteenths = weight * rows[:, x // 2] + (4 - weight) * rows[:, other]
    around_zero: F32 = sixteenths.astype(np.float32) * np.float32(1 / 16) - np.float32(128)
    return around_zero


def _depth_to_space(residual: Tensor, geometry: Geometry) -> F32:
    """(1, 3 s^2, H / s, W / s) -> (H, W, 3)."""
    s = geometry.pack
    _, _, height, width = residual.shape
    cells: F32 = residual.astype(np.float32).reshape(3, s, s, height, width).transpose(3, 1, 4, 2, 0)
    return cells.reshape(height * s, width * s, 3)


def _upsample_map(cells: F32, stride: int) -> F32:
    """Bilinear by an integer, half-pixel centres, rows first."""
    first, second, weight = _taps(cells.shape[0], stride)
    rows = cells[first] * (np.float32(1) - weight)[:, None] + cells[second] * weight[:, None]
    first, second, weight = _taps(cells.shape[1], stride)
    upsampled: F32 = rows[:, first] * (np.float32(1) - weight) + rows[:, second] * weight
    return upsampled


def _taps(cells: int, stride: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], F32]:
    twice = np.maximum(2 * np.arange(cells * stride) + 1 - stride, 0)
    first = twice // (2 * stride)
    return first, np.minimum(first + 1, cells - 1), (twice % (2 * stride)).astype(np.float32) / np.float32(2 * stride)


def _encode(frame: Frame, d: F32, out: Frame) -> None:
    """Add ``d`` to the source's codes, or, where the layouts differ, the restored RGB to the codes of black."""
    color = Color.of(out.color.matrix, out.color.range)
    same = _layout(frame) == _layout(out)
    rgb = d if same else np.clip(_decode(frame) + d, np.float32(0), np.float32(1))
    if not out.format.is_yuv:
        ordered = rgb if out.format is PixelFormat.RGB24 else rgb[..., ::-1]
        base = frame.planes[0] if same else np.zeros_like(out.planes[0])
        out.planes[0][...] = _add_codes(base, np.float32(255) * ordered)
        return
    luma = _linear(rgb, color.kr, color.kg, color.kb) * color.y_codes
    mean = _average(rgb)
    u = _linear(mean, color.ur, color.ug, color.ub) * color.c_codes
    v = _linear(mean, color.vr, color.vg, color.vb) * color.c_codes
    if same:
        bases = (frame.planes[0], *_chroma(frame))
    else:
        gray = np.full_like(_chroma(out)[0], 128)
        bases = (np.full_like(out.planes[0], int(color.y_offset)), gray, gray)
    for plane, base, delta in zip((out.planes[0], *_chroma(out)), bases, (luma, u, v), strict=True):
        plane[...] = _add_codes(base, np.where(np.isnan(delta), np.float32(0), delta))


def _layout(frame: Frame) -> tuple[int, ...]:
    """What has to agree for a zero residual to return every byte."""
    color = (frame.color.matrix, frame.color.range, frame.color.siting)
    return (frame.format, *color) if frame.format.is_yuv else (frame.format,)


def _linear(rgb: F32, r: np.float32, g: np.float32, b: np.float32) -> F32:
    weighted: F32 = (r * rgb[..., 0] + g * rgb[..., 1]) + b * rgb[..., 2]
    return weighted


def _average(rgb: F32) -> F32:
    """Mean over the luma samples under each chroma sample: (ceil(H / 2), ceil(W / 2), 3)."""
    total, weight = rgb, np.ones((1, 1, 1), np.float32)
    for axis in (1, 0):
        even, odd = (np.take(total, range(start, total.shape[axis], 2), axis) for start in (0, 1))
        pairs = [(0, even.shape[axis] - odd.shape[axis]) if i == axis else (0, 0) for i in range(3)]
        total = even + np.pad(odd, pairs)
        shape = [-1 if i == axis else 1 for i in range(3)]
        halves = np.full(even.shape[axis], 0.5, np.float32)
        halves[odd.shape[axis] :] = 1
        weight = weight * halves.reshape(shape)
    return total * weight


def _add_codes(base: npt.NDArray[np.uint8], delta: F32) -> npt.NDArray[np.uint8]:
    value: F32 = np.clip(base.astype(np.float32) + delta, np.float32(0), np.float32(255))
    rounded: F32 = value + np.float32(0.5)
    return rounded.astype(np.uint8)
