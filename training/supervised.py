# SPDX-License-Identifier: Apache-2.0
"""The network as it is trained: with normalisations, and asked how far everything moved.

What undoes blur depends on its direction and length. A network that only sees how wrong its picture is learns late to
tell directions apart (docs/ablations.md), so its features are asked for them as well. Nothing of that is exported.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from crispstream.model.network import HumanAwareNet, Output
from crispstream.model.presets import Preset
from training.motion import DIRECTIONS
from training.normalised import normalised


class Taught(NamedTuple):
    """The network's ``output``; ``motion`` (N, DIRECTIONS, H', W') in units of FARTHEST; ``guidance`` (N, 3, H/2, W/2),
    what the guide, if there is one, adds to the frame at half its size."""

    output: Output
    motion: Tensor
    guidance: Tensor | None


class Supervised(nn.Module):
    """``net``, and the extents of motion that a linear function reads from each cell of its third scale."""

    def __init__(self, net: HumanAwareNet) -> None:
        super().__init__()
        self.net = net
        self.motion = nn.Linear(net.preset.channels[2], DIRECTIONS)
        nn.init.zeros_(self.motion.weight)

    def forward(self, image: Tensor) -> Taught:
        """RGB (N, 3, H, W), sides a multiple of the preset's ``multiple``."""
        packed, encoder = self.net.packed(image), self.net.encoder
        guidance = encoder.guidance(packed)
        features = encoder.features(packed, guidance)
        motion = self.motion(features[2].movedim(1, -1)).movedim(-1, 1)
        return Taught(self.net.decode(image, features), motion, guidance)


def supervised(size: Preset) -> Supervised:
    """A fresh network of that size, ready to train."""
    return Supervised(normalised(HumanAwareNet(size)))
