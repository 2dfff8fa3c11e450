# SPDX-License-Identifier: Apache-2.0
"""What training asks the network for besides its output."""

from __future__ import annotations

import torch

from crispstream.model.presets import preset
from training.loss import guide_loss, motion_loss
from training.motion import DIRECTIONS
from training.supervised import supervised
from training.synthesis import Batch


def sample(motion: float, known: list[bool]) -> Batch:
    picture, label = torch.rand(len(known), 3, 32, 32), torch.zeros(len(known), 1, 32, 32)
    flags = torch.tensor(known)
    return Batch(picture, picture, label, label, torch.full((len(known), DIRECTIONS, 32, 32), motion), flags, flags)


def test_the_output_is_the_networks_and_the_motion_has_its_cells() -> None:
    torch.manual_seed(0)
    taught = supervised(preset("nano")).eval()
    picture = torch.rand(2, 3, 32, 48)
    with torch.inference_mode():
        output, motion, guidance = taught(picture)
        for mine, its in zip(output, taught.net(picture), strict=True):
            torch.testing.assert_close(mine, its)
    assert motion.shape == (2, DIRECTIONS, *output.head.shape[2:]) and guidance is None


def test_what_the_guide_says_is_learnt_from_and_heard() -> None:
    torch.manual_seed(0)
    taught = supervised(preset("base"))
    batch = sample(0.5, [True, True])
    guidance = taught(batch.blurry).guidance
    assert guidance is not None and guidance.shape == (2, 3, 16, 16)
    guide_loss(guidance, batch._replace(sharp=batch.sharp * 0.9)).backward()  # type: ignore[no-untyped-call]
    guide = taught.net.encoder.guide
    assert guide is not None and guide.branch.out.weight.grad.any() and taught.net.encoder.stem.conv.weight.grad is None

    torch.nn.init.normal_(taught.net.background.out.weight)
    before = taught(batch.blurry).output.background
    torch.nn.init.normal_(guide.branch.out.weight)
    assert before.any() and not torch.equal(taught(batch.blurry).output.background, before)


def test_motion_teaches_the_encoder_alone() -> None:
    taught = supervised(preset("nano"))
    torch.nn.init.normal_(taught.motion.weight)
    batch = sample(0.5, [True, True])
    motion_loss(taught(batch.blurry).motion, batch).backward()  # type: ignore[no-untyped-call]
    assert taught.net.encoder.stem.conv.weight.grad.any() and taught.motion.bias.grad.any()
    assert all(p.grad is None for p in taught.net.foreground.parameters())


def test_only_known_motion_counts() -> None:
    predicted = torch.zeros(2, DIRECTIONS, 4, 4)
    predicted[1] = 0.9
    one, both = (float(motion_loss(predicted, sample(0.0, known))) for known in ([True, False], [True, True]))
    assert one == 0 and both > 0
    assert float(motion_loss(predicted, sample(0.0, [False, False]))) == 0


def test_it_learns_the_direction_of_stripes() -> None:
    """Level and upright stripes that are told apart by motion's label only."""
    torch.manual_seed(0)
    taught = supervised(preset("nano"))
    optimizer = torch.optim.Adam(taught.parameters(), 3e-3)
    stripes = (torch.arange(32) % 8 < 4).float().expand(3, 32, 32)
    picture = torch.stack((stripes, stripes.mT)) * 0.5 + 0.2
    batch = sample(0.0, [True, True])
    batch.motion[0, 0] = batch.motion[1, 2] = 0.5
    errors = []
    for _ in range(25):
        loss = motion_loss(taught(picture + torch.rand(2, 3, 32, 32) * 0.05).motion, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.2 * errors[0]
