# SPDX-License-Identifier: Apache-2.0
"""How far the network sees, followed from layer to layer. No torch here; ``network.py`` has the layers."""

from __future__ import annotations

from crispstream.model.presets import Preset

Span = tuple[int, int]
"""First and last cell of one axis at one scale, both included."""


def receptive_radius(preset: Preset) -> int:
    """Pixels, along either axis, from a pixel of the restored RGB picture to the farthest one that it depends on.

    Through head, blend and both branches, by the longest way: every layer on the way down, the context, the guide. What
    unpack interpolates chroma from (two more pixels in 4:2:0) is not in it.
    """
    radius = 0
    for pixel in range(preset.multiple):  # the scales repeat after so many
        for first, last in (_input(preset, _residual(preset, pixel)), _input(preset, _head(preset, pixel))):
            radius = max(radius, pixel - first, last - pixel)
    return radius


def _residual(preset: Preset, pixel: int) -> Span:
    """The cells of ``features2`` that the residual of a pixel is made from."""
    cell = pixel // preset.pack
    b0, b1, b2 = preset.branch_blocks
    span = _grow((cell, cell), 1 + 2 * b0)
    span = _grow(_coarser(span), 2 * b1)
    return _grow(_coarser(span), 2 * b2)


def _head(preset: Preset, pixel: int) -> Span:
    """The cells of ``features2`` that mask and gate of a pixel are interpolated from."""
    stride = preset.map_stride
    first = (2 * pixel + 1 - stride) // (2 * stride)
    return _grow((first, first + 1), 2)


def _input(preset: Preset, features2: Span) -> Span:
    """The pixels that cells of ``features2`` are made from."""
    e0, e1, e2 = preset.encoder_blocks
    span = _grow(_coarser(features2), 2 * preset.context[1])
    for blocks in (e2, e1, e0):
        span = _grow(_finer(span), 2 * blocks)
    first, last = _grow(span, 1)  # the stem, and what takes the guide in
    if preset.guide is None:
        return first * preset.pack, last * preset.pack + preset.pack - 1
    # Cells of the stem are pixels of the halved picture, and no layer sees farther than its guide.
    reach = [_input(preset.guide, _residual(preset.guide, cell)) for cell in (first, last)]
    return 2 * reach[0][0], 2 * reach[1][1] + 1


def _grow(span: Span, cells: int) -> Span:
    """One 3x3 convolution for each cell."""
    return span[0] - cells, span[1] + cells


def _coarser(span: Span) -> Span:
    """What nearest x2 reads."""
    return span[0] // 2, span[1] // 2


def _finer(span: Span) -> Span:
    """What a 3x3 convolution of stride 2 reads."""
    return 2 * span[0] - 1, 2 * span[1] + 1
