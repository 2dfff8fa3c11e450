# SPDX-License-Identifier: Apache-2.0
"""How far the network sees: what the layers say is what gradients show, to the pixel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS
from crispstream.model.receptive import receptive_radius


@pytest.mark.parametrize(("name", "axis"), [("nano", 2), ("nano", 3), ("small", 3), ("base", 3)])
def test_gradients_reach_as_far_as_the_layers_say(name: str, axis: int) -> None:
    preset = PRESETS[name]
    net = HumanAwareNet(preset)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # positive everywhere: nothing cancels, no unit is off
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    radius, m = receptive_radius(preset), preset.multiple
    center = (radius // m + 2) * m
    shape = [1, 3, m, m]
    shape[axis] = 2 * center
    farthest = 0
    for phase in range(m):  # pixels of one cell of the coarsest scale see differently far
        image = torch.full(shape, 0.5, requires_grad=True)
        net(image).image.select(axis, center + phase).sum().backward()
        assert image.grad is not None
        seen = image.grad.abs().sum([d for d in range(4) if d != axis]).nonzero()
        farthest = max(farthest, center + phase - int(seen.min()), int(seen.max()) - center - phase)
    assert farthest == radius
