# SPDX-License-Identifier: Apache-2.0
"""Activations shrink, the function stays."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from crispstream.export.frames import stress_frames
from crispstream.export.precision import largest_activation
from crispstream.model.network import Branch, HumanAwareNet
from crispstream.model.presets import preset
from training.headroom import TARGET, shrink_activations, shrink_factors, with_headroom


def loud_network(name: str = "nano") -> HumanAwareNet:
    torch.manual_seed(0)
    net = HumanAwareNet(preset(name)).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.bias.normal_(0, 0.1)  # type: ignore[union-attr]
        net.encoder.context[0].second.weight.mul_(40_000)
        for branch in (net.foreground, net.background):
            branch.out.weight.normal_(0, 1e-6)
        net.encoder.head_out.weight.mul_(1e-6)
        if net.encoder.guide:
            net.encoder.guide.branch.out.weight.normal_(0, 1e-2)
    return net


@pytest.mark.parametrize("name", ["nano", "small", "base"])
def test_shrinking_by_a_power_of_two_changes_nothing_but_the_activations(name: str) -> None:
    net, image = loud_network(name), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = net(image)
    shrink_activations(net, 64.0)
    shrink_factors(net.foreground, 4.0)
    with torch.inference_mode():
        after = net(image)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_headroom_is_reached_even_from_overflow() -> None:
    net, frames = loud_network(), stress_frames({}, 64, 48)
    assert not largest_activation(net, frames)["value"] <= 65504
    scaled = with_headroom(net, frames)
    assert largest_activation(scaled, frames)["value"] <= TARGET
    assert not largest_activation(net, frames)["value"] <= 65504, "the original stays as it was"


@pytest.mark.parametrize("branch", ["foreground", "encoder.guide.branch"])
def test_loud_factors_are_shrunk_wherever_they_are(branch: str) -> None:
    net, frames = HumanAwareNet(preset("base")).eval(), stress_frames({}, 64, 48)
    with torch.no_grad():
        cast(Branch, net.get_submodule(branch)).up0.project.bias.fill_(5000.0)  # type: ignore[union-attr]
    assert not largest_activation(net, frames)["value"] <= TARGET
    assert largest_activation(with_headroom(net, frames), frames)["value"] <= TARGET


def test_outputs_that_explode_are_refused() -> None:
    net = loud_network()
    with torch.no_grad():
        net.foreground.out.weight.fill_(1.0)
    with pytest.raises(ValueError, match="outputs themselves"):
        with_headroom(net, stress_frames({}, 16, 16))


def test_a_quiet_network_is_left_alone() -> None:
    net = HumanAwareNet(preset("nano")).eval()
    scaled = with_headroom(net, stress_frames({}, 64, 48))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), scaled.parameters(), strict=True))
