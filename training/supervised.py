# SPDX-License-Identifier: Apache-2.0
"""The network as it is trained: with normalisations, and asked how far everything moved.

What undoes blur depends on its direction and length. A network that only sees how wrong its picture is learns late to
tell directions apart (docs/ablations.md), so its features are asked for them as well. Nothing of that is exported.
"""

from __future__ import annotations

from torch import Tensor, nn

from crispstream.model.network import HumanAwareNet, Output
from crispstream.model.presets import Preset
from training.motion import DIRECTIONS
from training.normalised import normalised


class Supervised(nn.Module):
    """``net``, and the extents of motion that a linear function reads from each cell of its third scale."""

    def __init__(self, net: HumanAwareNet) -> None:
        super().__init__()
        self.net = net
        self.motion = nn.Linear(net.preset.channels[2], DIRECTIONS)
        nn.init.zeros_(self.motion.weight)

    def forward(self, image: Tensor) -> tuple[Output, Tensor]:
        """RGB (N, 3, H, W) -> the network's output and the motion (N, DIRECTIONS, H', W') in units of FARTHEST."""
        features = self.net.encode(image)
        motion = self.motion(features[2].movedim(1, -1)).movedim(-1, 1)
        return self.net.decode(image, features), motion


def supervised(size: Preset) -> Supervised:
    """A fresh network of that size, ready to train."""
    return Supervised(normalised(HumanAwareNet(size)))
