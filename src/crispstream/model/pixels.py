# SPDX-License-Identifier: Apache-2.0
"""Pack and blend in plain differentiable torch: what the pixel kernels must compute, on RGB in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """(N, 3, H, W) -> (N, 3, H', W'), padded on the right and at the bottom by edge replication."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def pack(image: Tensor, factor: int) -> Tensor:
    """Space-to-depth: (N, 3, H, W) -> (N, 3 s^2, H/s, W/s), channel = c s^2 + dy s + dx."""
    return F.pixel_unshuffle(image, factor)


def spreading() -> Tensor:
    """Weights (12, 3, 2, 2) of the transposed convolution of stride 2 that undoes ``pack`` by 2."""
    return torch.eye(12).view(12, 3, 2, 2)


def halving() -> Tensor:
    """Weights (12, 12, 2, 2) of the convolution of stride 2 that makes a frame packed by 2 the packed frame of half its
    size: each pixel the mean of four."""
    return spreading().repeat_interleave(4, 1) / 4


def blend(
    image: Tensor,
    head: Tensor,
    foreground: Tensor | None,
    background: Tensor | None,
    factor: int,
    strength: float = 1.0,
    mask_gain: float = 1.0,
    mask_bias: float = 0.0,
) -> Tensor:
    """image + strength * g * (m * foreground + (1 - m) * background), not clamped (training needs the gradient).

    ``image`` (N, 3, H, W) unpadded; ``head`` (N, 2, H'/map_stride, W'/map_stride), person mask m and blur gate g;
    residuals packed (N, 3 s^2, H'/s, W'/s). m is used as ``mask_gain * m + mask_bias``. A missing foreground means
    m = 0, a missing background m = 1. A residual that is not finite counts as 0.
    """
    present = foreground if foreground is not None else background
    if present is None:
        return image
    scale = present.shape[-1] * factor // head.shape[-1]
    maps = F.interpolate(head, scale_factor=float(scale), mode="bilinear", align_corners=False)
    mask, gate = mask_gain * maps[:, :1] + mask_bias, maps[:, 1:]
    if foreground is None or background is None:
        mixed = F.pixel_shuffle(present, factor)
    else:
        mixed = mask * F.pixel_shuffle(foreground, factor) + (1 - mask) * F.pixel_shuffle(background, factor)
    residual = strength * gate * mixed
    residual = torch.where(torch.isfinite(residual), residual, torch.zeros_like(residual))
    return image + residual[..., : image.shape[-2], : image.shape[-1]]
