# SPDX-License-Identifier: Apache-2.0
"""A deeper preset begins as the one that it is grown from, and can be trained."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from crispstream.errors import UsageError
from crispstream.model.network import HumanAwareNet, ResidualBlock
from crispstream.model.presets import Preset, preset
from crispstream.model.weights import save_weights
from training import grow, train
from training.grow import grown, trainable
from training.normalised import Normalised, folded
from training.schedule import Shape

NANO = preset("nano")


def trained() -> HumanAwareNet:
    """Weights with residuals that can be seen."""
    torch.manual_seed(0)
    net = HumanAwareNet(NANO).eval()
    with torch.no_grad():
        for branch in (net.foreground, net.background):
            branch.out.weight.normal_(0, 0.02)
    return net


@torch.inference_mode()
def assert_same(net: HumanAwareNet, other: HumanAwareNet) -> None:
    for a, b in zip(net(picture := torch.rand(2, 3, 64, 96)), other(picture), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "size", [NANO, preset("small"), replace(NANO, encoder_blocks=(1, 1, 1), branch_blocks=(1, 1, 2))]
)
def test_what_is_grown_computes_the_same_and_learns_in_every_new_block(size: Preset) -> None:
    first = trained()
    net = grown(first, size)
    assert_same(net, first)
    net = trainable(net, torch.rand(4, 3, 64, 64))
    assert_same(net, first)
    assert_same(folded(net), first)

    net.train()(torch.rand(2, 3, 64, 64)).image.square().sum().backward()
    new = [m.second.norm for m in net.modules() if isinstance(m, ResidualBlock) and not m.second.norm.weight.any()]
    blocks = [sum((*p.encoder_blocks, p.context[1], *2 * p.branch_blocks)) for p in (NANO, size)]
    assert len(new) == blocks[1] - blocks[0] and all(norm.weight.grad.any() for norm in new)


def test_a_guide_begins_as_the_background_branch_on_half_the_picture_and_is_taken_in() -> None:
    first = trained()
    net = grown(first, preset("base"))
    assert_same(net, first)
    net = trainable(net, picture := torch.rand(4, 3, 64, 64))
    assert_same(net, first)
    halved = F.avg_pool2d(picture, 2)
    with torch.inference_mode():
        expected = F.pixel_shuffle(first(halved).background, 2)
        assert net.eval().encoder.guide is not None
        torch.testing.assert_close(net.encoder.guide(net.packed(picture)), expected, rtol=1e-4, atol=1e-4)

    net.train()(picture).image.square().sum().backward()
    assert isinstance(net.encoder.guided, Normalised) and net.encoder.guided.norm.weight.grad.any()


def test_other_widths_and_fewer_blocks_are_refused() -> None:
    for size in (replace(NANO, channels=(32, 48, 80)), replace(NANO, branch_blocks=(0, 0, 0))):
        with pytest.raises(UsageError, match="with more blocks"):
            grown(trained(), size)


def test_training_goes_on_from_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(trained(), tmp_path / "nano.safetensors")
    run = tmp_path / "run"
    places = ["--data", str(data), "--run", str(run)]
    monkeypatch.setattr(grow, "PICTURES", 2)
    monkeypatch.setattr(grow, "SIZE", 64)
    words = ["grow", "--first", "nano", "--weights", str(tmp_path / "nano.safetensors"), "--preset", "small", *places]
    monkeypatch.setattr(sys, "argv", [*words, "--step", "3"])
    grow.main()
    assert capsys.readouterr().out == f"{run / 'checkpoint'}\n"
    words = ["--preset", "small", *places, "--steps", "4", "--crop", "32", "--batch", "2", "--no-compile"]
    arguments = train.parser().parse_args(words)
    monkeypatch.setattr(train, "VALIDATION_BATCHES", 1)
    monkeypatch.setattr(train, "VALIDATION", Shape(64, 2))
    progress = train.train(arguments)
    assert (progress.step, progress.updates) == (4, 1) and len(progress.gains) == 1

    with pytest.raises(SystemExit, match="holds a training already"):
        grow.main()
    elsewhere = ["--data", str(data), "--run", str(tmp_path / "other")]
    save_weights(HumanAwareNet(preset("small")), tmp_path / "small.safetensors")
    larger = ["grow", "--first", "small", "--weights", str(tmp_path / "small.safetensors"), "--preset", "nano"]
    monkeypatch.setattr(sys, "argv", [*larger, *elsewhere])
    with pytest.raises(SystemExit, match="with more blocks"):
        grow.main()
