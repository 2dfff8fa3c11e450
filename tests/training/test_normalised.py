# SPDX-License-Identifier: Apache-2.0
"""Normalisation is there while training and leaves no trace."""

from __future__ import annotations

import torch

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training.normalised import folded, normalised


def trained_a_little() -> HumanAwareNet:
    torch.manual_seed(3)
    net = normalised(HumanAwareNet(preset("nano")))
    with torch.no_grad():
        for branch in (net.foreground, net.background):
            branch.out.weight.normal_(0, 0.01)
        for _ in range(3):
            net(torch.rand(4, 3, 64, 64))  # running statistics move
    return net


def test_folding_keeps_the_function_and_gives_the_plain_network() -> None:
    net, image = trained_a_little().eval(), torch.rand(2, 3, 48, 80)
    plain = folded(net)
    assert plain.state_dict().keys() == HumanAwareNet(preset("nano")).state_dict().keys()
    with torch.inference_mode():
        for a, b in zip(net(image), plain(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_training_network_alone() -> None:
    net = trained_a_little().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded(net)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_outputs_and_factors_stay_bare() -> None:
    names = {name.rsplit(".", 2)[0] for name in trained_a_little().state_dict() if name.endswith("norm.weight")}
    assert {"encoder.stem", "encoder.down3", "encoder.head_mix", "foreground.blocks2.0.second"} <= names
    assert not any(name.endswith(("out", "project")) for name in names)
