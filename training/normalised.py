# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation while training, none afterwards: it folds into the convolution before it.

Without it this network learns half as fast (docs/ablations.md): the size of its activations then depends on every layer
below.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crispstream.model.network import HumanAwareNet, ResidualBlock

BARE = ("out", "head_out", "project")
"""Convolutions that stay bare: outputs have a scale of their own, and a factor or a hint from below may be small."""


class Normalised(nn.Module):
    """Convolution and batch normalisation; running statistics over about 20 steps."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, momentum=0.05)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


def _children(net: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(m, name, child) for m in net.modules() for name, child in m.named_children() if isinstance(child, kind)]


def normalised(net: HumanAwareNet) -> HumanAwareNet:
    """``net`` itself, every inner convolution followed by a normalisation; residual blocks start nearly as nothing."""
    for module, name, conv in _children(net, nn.Conv2d):
        if name not in BARE:
            assert isinstance(conv, nn.Conv2d)
            wrapped = Normalised(conv)
            if isinstance(module, ResidualBlock) and name == "second":
                nn.init.constant_(wrapped.norm.weight, 0.2)
            setattr(module, name, wrapped)
    return net


@torch.no_grad()
def folded(net: HumanAwareNet) -> HumanAwareNet:
    """A copy in evaluation mode without normalisations that computes the same from the running statistics."""
    plain = deepcopy(net).eval()
    for module, name, child in _children(plain, Normalised):
        assert isinstance(child, Normalised)
        setattr(module, name, fuse_conv_bn_eval(child.conv, child.norm))
    return plain
