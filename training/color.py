# SPDX-License-Identifier: Apache-2.0
"""Camera curves between light, which adds up, and codes: sRGB (IEC 61966-2-1), and powers for cameras that differ."""

from __future__ import annotations

import torch
from torch import Tensor


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB codes in [0, 1] -> linear light in [0, 1]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055).clamp(min=0) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light -> sRGB codes; values outside [0, 1] are clipped, as a sensor does."""
    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def random_gammas(count: int, generator: torch.Generator) -> Tensor:
    """Camera curves (count, 1, 1, 1): in half 0, the sRGB curve; in a quarter 1, so that codes themselves are averaged,
    as in blur that is made from the frames of a film; otherwise another power up to 2.4."""
    kind = torch.rand(count, generator=generator)
    power = 1 + 1.4 * torch.rand(count, generator=generator)
    gammas = torch.where(kind < 0.25, torch.ones(count), torch.where(kind < 0.5, power, torch.zeros(count)))
    return gammas[:, None, None, None]


def to_light(srgb: Tensor, gamma: Tensor) -> Tensor:
    """sRGB codes in [0, 1] -> what the camera with this curve (``random_gammas``) adds up."""
    return torch.where(gamma > 0, srgb ** gamma.clamp(min=1), to_linear(srgb))


def linear_light(light: Tensor, gamma: Tensor) -> Tensor:
    """What the camera added up -> the linear light whose sRGB codes are the camera's; highlights stay above 1."""
    return torch.where(gamma > 0, to_linear(light.clamp(min=0) ** (1 / gamma.clamp(min=1))), light)
