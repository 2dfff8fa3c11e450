# SPDX-License-Identifier: Apache-2.0
"""Layered motion blur in NumPy, for the demo: the twin of ``training.synthesis.expose`` without torch.

The exposure is the mean over T sub-frames of ``alpha_t F_t + (1 - alpha_t) G_t`` in linear light: F the person layer
with its moving alpha, G the background, filled in behind the person.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def to_linear(srgb: Array) -> Array:
    """sRGB codes in [0, 1] -> linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(linear: Array) -> Array:
    """Linear light -> sRGB codes in [0, 1], clipped (IEC 61966-2-1)."""
    x = np.clip(linear, 0, 1)
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055).astype(np.float32)


def _halve(image: Array) -> Array:
    # 2x2 means; at an odd edge the mean of the pixels that exist.
    height, width = image.shape[:2]
    rows, columns = np.arange(0, height, 2), np.arange(0, width, 2)
    total = np.add.reduceat(np.add.reduceat(image, rows, axis=0), columns, axis=1)
    tall = np.minimum(2, height - rows).astype(np.float32)
    wide = np.minimum(2, width - columns).astype(np.float32)
    return np.asarray(total / (tall[:, None] * wide)[..., None], np.float32)


def _resize(image: Array, height: int, width: int) -> Array:
    # Bilinear, half-pixel centres, borders clamped.
    for axis, size in ((0, height), (1, width)):
        length = image.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, None).astype(np.float32)
        low = np.minimum(position.astype(np.int64), length - 1)
        high = np.minimum(low + 1, length - 1)
        weight = (position - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return image.astype(np.float32)


def fill_behind(image: Array, keep: Array) -> Array:
    """Fill (H, W, C) where ``keep`` (H, W, 1) is 0 from its surroundings: a push-pull pyramid of weighted means."""
    levels = [(image * keep, keep)]
    while min(levels[-1][1].shape[:2]) > 1:
        value, weight = levels[-1]
        levels.append((_halve(value), _halve(weight)))
    value, weight = levels[-1]
    coarse = np.asarray(value / np.maximum(weight, 1e-6), np.float32)
    for value, weight in reversed(levels[:-1]):
        coarse = _resize(coarse, *value.shape[:2])
        sure = np.minimum(weight * 4, 1)
        coarse = np.asarray(sure * (value / np.maximum(weight, 1e-6)) + (1 - sure) * coarse, np.float32)
    return np.asarray(image * keep + coarse * (1 - keep), np.float32)


def _reflect(position: Array, size: int) -> Array:
    # Mirror at the outer pixel edges (-0.5 and size - 0.5), then stay inside, as torch's grid_sample does.
    span = np.float32(size)
    folded = np.abs(position + 0.5) % (2 * span)
    inside = np.clip(np.where(folded > span, 2 * span - folded, folded) - 0.5, 0, span - 1)
    return np.asarray(inside, np.float32)


def warp(image: Array, matrix: Array) -> Array:
    """Sample (H, W, C) bilinearly at ``matrix`` (2, 3) applied to pixel positions relative to the centre."""
    height, width = image.shape[:2]
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    column = _reflect(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + (width - 1) / 2, width)
    row = _reflect(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + (height - 1) / 2, height)
    left, top = column.astype(np.int64), row.astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (column - left)[..., None], (row - top)[..., None]
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def grow(alpha: Array, margin: int) -> Array:
    """(H, W, 1): the largest value within ``margin`` pixels to each side."""
    for axis in (0, 1):
        pad = [(margin, margin) if axis == a else (0, 0) for a in range(3)]
        alpha = np.lib.stride_tricks.sliding_window_view(np.pad(alpha, pad), 2 * margin + 1, axis).max(-1)
    return alpha


def split_layers(linear: Array, alpha: Array, margin: int = 0) -> tuple[Array, Array]:
    """The person layer (H, W, 4), colour times alpha with its alpha, and the background (H, W, 3) filled in behind it.

    ``linear`` (H, W, 3) the sharp picture in linear light, ``alpha`` (H, W, 1) of its person. ``margin`` pixels around
    the person are filled in too: where the outline is rough, a rim of the person would stay behind.
    """
    return np.concatenate((linear * alpha, alpha), axis=2), fill_behind(linear, 1 - grow(alpha, margin))


def expose(layer: Array, behind: Array, camera: Array, person: Array) -> tuple[Array, Array]:
    """Mean exposure (H, W, 3) in linear light and the averaged alpha (H, W, 1).

    ``layer`` (H, W, 4) and ``behind`` (H, W, 3) of ``split_layers``; ``camera`` and ``person`` (T, 2, 3) maps from
    output to source pixels around the centre, for background and person.
    """
    total = np.zeros(layer.shape, np.float32)
    for back, front in zip(camera, person, strict=True):
        moved = warp(layer, front)
        scene = warp(behind, back)
        total += np.concatenate((moved[..., :3] + (1 - moved[..., 3:]) * scene, moved[..., 3:]), axis=2)
    total /= np.float32(len(camera))
    return total[..., :3], total[..., 3:]
