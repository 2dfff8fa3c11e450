# SPDX-License-Identifier: Apache-2.0
"""From linear light to the codes a camera delivers: noise before the curve, correlation, 8 bits, JPEG."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.color import to_srgb

# ITU-T T.81 Annex K example quantisation tables (luminance, chrominance), row by row.
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA = "17 18 24 47 " + "99 " * 4 + "18 21 26 66 " + "99 " * 4 + "24 26 56 " + "99 " * 5 + "47 66 " + "99 " * 38


def _dct() -> Tensor:
    k = torch.arange(8, dtype=torch.float32)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What JPEG at ``quality`` (N,) leaves of (N, 3, S, S) sRGB in [0, 1], S a multiple of 8, 4:4:4 (ITU-T T.81)."""
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).to(image.device)
    tables = torch.tensor([[float(v) for v in t.split()] for t in (_LUMA, _CHROMA, _CHROMA)], device=image.device)
    steps = (tables.view(1, 3, 1, 1, 8, 8) * scale.view(-1, 1, 1, 1, 1, 1)).round().clamp(1, 255)
    to_ycc = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], device=image.device
    )
    basis = _dct().to(image.device)
    n, _, height, width = image.shape
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, image * 255) - torch.tensor([128.0, 0, 0], device=image.device).view(
        3, 1, 1
    )
    blocks = ycc.view(n, 3, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    blocks = basis.T @ ((coefficients / steps).round() * steps) @ basis
    ycc = blocks.transpose(3, 4).reshape(n, 3, height, width) + torch.tensor([128.0, 0, 0], device=image.device).view(
        3, 1, 1
    )
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_ycc), ycc).div(255).clamp(0, 1)


def degrade(linear: Tensor, generator: torch.Generator) -> Tensor:
    """Linear light (N, 3, S, S) -> sRGB codes as delivered: Poisson-Gaussian noise, demosaic-like correlation, 8 bits,
    compression in a third. Half of the samples get neither noise nor compression, half of the others no noise."""
    n = linear.shape[0]

    def draw(low: float, high: float) -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low).to(linear.device)

    # Around the cameras that RSBlur measured: shot 9e-5 to 1e-4, read 3e-5 to 9e-4.
    shot, read = 10 ** draw(-5.0, -3.5), 10 ** draw(-4.5, -3.0)
    noisy = (torch.rand(n, 1, 1, 1, generator=generator) < 0.5).to(linear.device)
    noise = torch.randn(linear.shape, generator=generator).to(linear.device)
    smooth = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="reflect"), 3, 1) * 2
    correlation = draw(0, 1)
    noise = (1 - correlation) * noise + correlation * smooth
    clipped = linear.clamp(0, 1)
    unsaturated = (linear < 1).to(linear.dtype)
    grain = noise * (shot * clipped + read**2).sqrt() * unsaturated
    codes = to_srgb(clipped + torch.where(noisy, grain, torch.zeros_like(grain)))
    codes = (codes * 255).round() / 255
    quality = draw(60, 97).view(n)
    compressed = (torch.rand(n, 1, 1, 1, generator=generator) < 0.33).to(linear.device)
    spoiled = torch.where(compressed, (jpeg(codes, quality) * 255).round() / 255, codes)
    clean = (torch.rand(n, 1, 1, 1, generator=generator) < 0.5).to(linear.device)
    return torch.where(clean, (to_srgb(clipped) * 255).round() / 255, spoiled)
