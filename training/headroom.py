# SPDX-License-Identifier: Apache-2.0
"""Keep activations far from FP16's limit of 65504 without changing what the network computes.

Convolutions, ReLU, additions and nearest upsampling let a positive factor through. So activations shrink by k where the
stems, what takes a guide in and every bias are divided by k, and the last convolutions multiply by k again; so do those
whose outputs are factors of others, or a product would shrink by k^2: factors shrink on their own. A power of two is
exact.
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import nn

from crispstream.export.frames import Rgb, stress_frames
from crispstream.export.precision import largest_activation
from crispstream.model.network import Branch, HumanAwareNet, Trunk

TARGET = 2048.0
"""A quarter of what ``crispstream verify`` allows; its frames are not the worst there are."""

MOST_HALVINGS = 32


@torch.no_grad()
def shrink_activations(net: HumanAwareNet, factor: float) -> None:
    """Divide activations, but not outputs and factors, by ``factor``, in place; head and residuals stay as they are."""
    branches = [module for module in net.modules() if isinstance(module, Branch)]
    unscaled = [net.encoder.head_out, *(b.out for b in branches), *(b.up0.project for b in branches)]
    for first in [module.stem for module in net.modules() if isinstance(module, Trunk)]:
        first.weight.div_(factor)
    if net.encoder.guide:
        net.encoder.guided.weight.div_(factor)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            if module in unscaled:
                module.weight.mul_(factor)
            else:
                module.bias.div_(factor)


@torch.no_grad()
def shrink_factors(branch: Branch, factor: float) -> None:
    """Divide what a branch multiplies its finest features with by ``factor``, in place; the residual stays."""
    for module in branch.blocks0.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            module.bias.div_(factor)
    assert branch.up0.project.bias is not None
    for tensor in (branch.up0.project.weight, branch.up0.project.bias):
        tensor.div_(factor)
    branch.out.weight.mul_(factor)


def with_headroom(net: HumanAwareNet, pictures: dict[str, Rgb] | None = None) -> HumanAwareNet:
    """A copy whose activations stay within TARGET on ``pictures`` (default: noise and saturated blocks).

    Raises ValueError where the outputs themselves do not.
    """
    scaled = deepcopy(net).cpu().eval()
    frames = pictures or stress_frames({}, 320, 192)
    for _ in range(MOST_HALVINGS):
        found = largest_activation(scaled, frames)
        if found["value"] <= TARGET:
            return scaled
        branch, factors, _ = found["layer"].partition(".up0.project")
        if factors:
            shrink_factors(cast(Branch, scaled.get_submodule(branch)), 2.0)
        else:
            shrink_activations(scaled, 2.0)
    raise ValueError("the outputs themselves are too large or not finite: this network has not learnt anything")
