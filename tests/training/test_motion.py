# SPDX-License-Identifier: Apache-2.0
"""How far pixels move, as a label."""

from __future__ import annotations

import math

import pytest
import torch

from training import synthesis
from training.motion import extents, random_affine, random_paths
from training.samples import oriented
from training.synthesis import FARTHEST, Batch, synthesise


def straight(angle: float, pixels: float, times: int = 7) -> torch.Tensor:
    """Maps (1, times, 2, 3) of an even motion; ``angle`` in degrees from the row, down the picture."""
    maps = torch.zeros(1, times, 2, 3)
    maps[..., 0, 0] = maps[..., 1, 1] = 1
    way = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    maps[..., 2] = torch.linspace(-pixels / 2, pixels / 2, times)[:, None] * way
    return maps


def test_paths_pass_through_the_middle_and_most_are_straight_and_even() -> None:
    """As points move in films within an exposure; but arcs, shake and uneven speed are among them."""
    paths = random_paths(2000, 21, torch.linspace(4, 40, 2000), torch.Generator().manual_seed(0))
    assert float(paths[:, 10].abs().max()) == 0
    torch.testing.assert_close(paths.norm(dim=-1).amax(1), torch.linspace(2, 20, 2000))
    steps = paths.diff(dim=1).norm(dim=-1)
    way, chord = steps.sum(1), paths[:, -1] - paths[:, 0]
    across = torch.stack((-chord[:, 1], chord[:, 0]), -1) / chord.norm(dim=-1, keepdim=True)
    off = ((paths - paths[:, :1]) * across[:, None]).sum(-1).abs().amax(1) / way
    assert 0.4 < float((off < 0.1).float().mean()) < 0.7 and float((off > 0.2).float().mean()) > 0.1
    halves = steps[:, :10].sum(1) / steps[:, 10:].sum(1)
    assert 0.6 < float(((halves > 0.6) & (halves < 1 / 0.6)).float().mean()) < 0.9


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135, 180])
def test_a_straight_motion_has_its_length_along_its_direction(angle: float) -> None:
    found = extents(straight(angle, 10), 8)
    assert found.shape == (1, 4, 8, 8)
    expected = [10 * abs(math.cos(math.radians(angle - d))) for d in (0, 45, 90, 135)]
    torch.testing.assert_close(found, torch.tensor(expected)[:, None, None].expand(1, 4, 8, 8), atol=1e-3, rtol=0)


def test_what_turns_moves_most_at_the_edge_and_across_the_radius() -> None:
    angles = torch.linspace(-0.05, 0.05, 201)
    maps = torch.zeros(1, 201, 2, 3)
    maps[0, :, 0, 0] = maps[0, :, 1, 1] = angles.cos()
    maps[0, :, 0, 1], maps[0, :, 1, 0] = -angles.sin(), angles.sin()
    found = extents(maps, 65)[0]
    assert float(found[:, 32, 32].max()) == pytest.approx(0, abs=1e-3)
    right = found[:, 32, 64]
    assert float(right[2]) == pytest.approx(3.2, rel=0.01) and float(right[0]) < 0.1


def test_what_stands_still_has_none() -> None:
    still = random_affine(3, 7, torch.zeros(3), 16, torch.Generator().manual_seed(0))
    assert float(extents(still, 16).max()) < 1e-3


def batch_moved(angle: float) -> Batch:
    """A batch whose label of motion is the only thing in it."""
    picture, label = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    yes = torch.tensor([True])
    return Batch(picture, picture, label, label, extents(straight(angle, 9), 8), yes, yes)


@pytest.mark.parametrize(
    ("turn", "flip", "angle"),
    [(0, False, 30), (1, False, -60), (2, False, 30), (3, False, 120), (0, True, 150), (1, True, 60), (2, True, -30)],
)
def test_directions_turn_with_the_picture(turn: int, flip: bool, angle: float) -> None:
    found = oriented(batch_moved(30), turn, flip).motion
    torch.testing.assert_close(found, batch_moved(angle).motion, atol=1e-4, rtol=0)


def test_what_turns_is_the_picture_as_its_motion() -> None:
    # A line along the motion, turned: where the pixels of it lie tells the direction without the function under test.
    line = torch.zeros(1, 3, 8, 8)
    line[..., 3, :] = 1
    turned = oriented(batch_moved(0)._replace(blurry=line), 1, False)
    assert float(turned.blurry[0, 0].sum(0).max()) == 8, "upright now"
    assert int(turned.motion[0, :, 0, 0].argmax()) == 2


def moved(
    monkeypatch: pytest.MonkeyPatch, photo: torch.Tensor, background: torch.Tensor, person: torch.Tensor
) -> Batch:
    """One sample of 64 pixels whose layers move as told; the person's alpha is a square in the middle."""
    turns = iter((background, person))
    monkeypatch.setattr(synthesis, "random_affine", lambda *_: next(turns))
    alpha = torch.zeros(1, 1, 96, 96)
    alpha[..., 32:64, 32:64] = 1
    yes = torch.ones(1, dtype=torch.bool)
    # A seed of a sample that is no flat picture and whose layers move apart.
    return synthesise(photo, alpha, ~yes, yes, 64, 8.0, seed=SEED)


SEED = 1


def test_the_labels_are_the_motions_of_both_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    batch = moved(monkeypatch, photo, straight(30, 8), straight(100, 40))
    assert float(batch.mask.max()) == 0 and bool((batch.gate == 1).all()), "a thing, and blur everywhere"
    expected = [extents(straight(*way), 1)[0, :, 0, 0] / FARTHEST for way in ((30, 8), (100, 40))]
    torch.testing.assert_close(batch.motion[0, :, 2, 2], expected[0])
    # Its square is 32 pixels wide and moves by 40, up and down: in the middle it is there for a part of the exposure.
    rows, columns = (batch.motion[0, :, 32, :].diff(dim=1).abs().amax(0) > 1e-4).nonzero().flatten()[[0, -1]]
    assert 8 < rows < 20 and 44 < columns < 56
    middle = batch.motion[0, :, 32, 32]
    assert bool((middle > torch.minimum(*expected) - 1e-4).all()) and int(middle.argmax()) == 2


def test_no_label_exceeds_one_nor_passes_a_shut_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    photo[..., :48] = 0.5
    batch = moved(monkeypatch, photo, straight(90, 50), straight(90, 50))
    assert float(batch.motion.max()) == 1, "50 pixels are more than FARTHEST"
    shut = (batch.gate == 0).expand_as(batch.motion)
    assert bool(shut[..., :20].all()) and float(batch.motion[shut].max()) == 0
