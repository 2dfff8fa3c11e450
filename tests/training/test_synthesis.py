# SPDX-License-Identifier: Apache-2.0
"""Blur synthesis: identities, labels, and the NumPy twin of the demo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crispstream import blur
from training.camera import jpeg
from training.color import linear_light, random_gammas, to_light, to_linear
from training.motion import random_affine
from training.synthesis import (
    AGREE,
    DIFFER,
    FLAT_SHARE,
    _sub_frames,
    expose,
    flat_pictures,
    gate_label,
    grow,
    raise_highlights,
    synthesise,
)


def _picture(size: int, seed: int = 0) -> torch.Tensor:
    smooth = torch.rand(1, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(smooth, size=(size, size), mode="bicubic").clamp(0, 1)


def _disc(size: int) -> torch.Tensor:
    axis = torch.arange(size) - size / 2
    return ((axis[:, None] ** 2 + axis**2).sqrt() < size / 4).float()[None, None]


@pytest.mark.parametrize("size", [64, 75])
def test_numpy_twin_equals_torch(size: int) -> None:
    linear, alpha = _picture(80)[..., :size, :size], _disc(size)
    generator = torch.Generator().manual_seed(3)
    camera = random_affine(1, 7, torch.tensor([9.0]), size, generator)
    person = random_affine(1, 7, torch.tensor([6.0]), size, generator)
    mean, soft = expose(linear, alpha, camera, person, size)
    layers = blur.split_layers(linear[0].permute(1, 2, 0).numpy(), alpha[0].permute(1, 2, 0).numpy())
    twin_mean, twin_soft = blur.expose(*layers, camera[0].numpy(), person[0].numpy())
    np.testing.assert_allclose(twin_mean, mean[0].permute(1, 2, 0).numpy(), atol=2e-5)
    np.testing.assert_allclose(twin_soft, soft[0].permute(1, 2, 0).numpy(), atol=2e-5)


def test_no_motion_is_the_identity() -> None:
    linear, alpha = _picture(64), _disc(64)
    still = random_affine(1, 5, torch.tensor([0.0]), 64, torch.Generator().manual_seed(1))
    mean, soft = expose(linear, alpha, still, still, 64)
    torch.testing.assert_close(mean, linear, atol=1e-5, rtol=0)
    torch.testing.assert_close(soft, alpha, atol=1e-5, rtol=0)


def test_the_target_lies_at_mid_exposure() -> None:
    # A blurred picture must not be shifted against its target: correlate it with shifted copies of the target.
    linear, nobody = _picture(96, seed=5), torch.zeros(1, 1, 96, 96)
    straight = torch.zeros(1, 9, 2, 3)
    straight[..., 0, 0] = straight[..., 1, 1] = 1
    straight[..., 0, 2] = torch.linspace(-4, 4, 9)
    mean, _ = expose(linear, nobody, straight, straight, 96)
    errors = {d: float((mean - linear.roll(d, 3))[..., 16:-16].square().mean()) for d in (-2, -1, 0, 1, 2)}
    assert min(errors, key=errors.__getitem__) == 0


def _moved(pixels: float) -> torch.Tensor:
    straight = torch.zeros(1, 9, 2, 3)
    straight[..., 0, 0] = straight[..., 1, 1] = 1
    straight[..., 0, 2] = torch.linspace(-pixels / 2, pixels / 2, 9)
    return straight


def test_labels_follow_what_blur_does_to_the_picture() -> None:
    photo, alpha = _picture(96).repeat(32, 1, 1, 1), _disc(96).repeat(32, 1, 1, 1)
    person = torch.tensor([True, False] * 16)
    known = torch.tensor([True] * 24 + [False] * 8)
    batch = synthesise(photo, alpha, person, known, 64, 10.0, seed=2)
    flat = (batch.sharp - batch.sharp.mean((2, 3), keepdim=True)).abs().amax((1, 2, 3)) < 0.15
    assert torch.equal(batch.mask_known[~flat], known[~flat])
    assert float(batch.mask[1::2].max()) == 0, "an object is not a person"
    assert float(batch.mask[person & ~flat].amax((1, 2, 3)).min()) > 0.9
    quiet = batch.gate.amax((1, 2, 3)) == 0
    assert 0 < int(quiet.sum()) < 16
    assert torch.equal(batch.blurry[quiet], batch.sharp[quiet]), "no blur to see, so the picture is its own answer"
    assert float((batch.blurry[~quiet] - batch.sharp[~quiet]).abs().amax((1, 2, 3)).min()) > 0


@pytest.mark.parametrize("level", [0.02, 0.5, 0.97])
def test_a_flat_picture_that_moves_is_not_blurred(level: float) -> None:
    photo = torch.full((24, 3, 96, 96), level)
    alpha, yes = _disc(96).repeat(24, 1, 1, 1), torch.ones(24, dtype=torch.bool)
    batch = synthesise(photo, alpha, yes, yes, 64, 12.0, seed=3)
    assert float(batch.gate.max()) == 0 and bool(batch.gate_known.all())
    assert torch.equal(batch.blurry, batch.sharp)


def test_the_gate_opens_at_the_moving_edge_and_nowhere_else() -> None:
    linear = torch.zeros(1, 3, 64, 64)
    linear[..., 32:] = 0.5
    mean, _ = expose(linear, torch.zeros(1, 1, 64, 64), _moved(8), _moved(8), 64)
    gate = gate_label(mean, linear)[0, 0]
    assert float(gate[:, 28:36].min()) == 1, "also at mid-edge, where blur changes nothing"
    assert float(gate[:, :22].max()) == 0 and float(gate[:, 42:].max()) == 0
    still, _ = expose(linear, torch.zeros(1, 1, 64, 64), _moved(0), _moved(0), 64)
    assert float(gate_label(still, linear).max()) == 0


def test_the_gate_rises_between_two_errors() -> None:
    black = torch.zeros(1, 3, 8, 8)
    for change, expected in ((0.0, 0.0), (AGREE, 0.0), ((AGREE + DIFFER) / 2, 0.5), (DIFFER, 1.0), (0.5, 1.0)):
        assert float(gate_label(black + change, black).mean()) == pytest.approx(expected, abs=1e-5)


def test_flat_pictures_occur_and_hold_no_person() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = flat_pictures(64, 48, 40, generator)
    assert pictures.shape == (64, 3, 48, 40) and 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert float(pictures.diff(dim=3).abs().max()) < 0.01
    assert float(pictures.mean((1, 2, 3)).std()) > 0.15, "dark ones and bright ones"
    count = 200
    photo, alpha = _picture(48).repeat(count, 1, 1, 1), torch.ones(count, 1, 48, 48)
    yes = torch.ones(count, dtype=torch.bool)
    batch = synthesise(photo, alpha, yes, ~yes, 32, 4.0, seed=1)
    flat = batch.mask.amax((1, 2, 3)) == 0
    assert 0.3 * FLAT_SHARE < int(flat.sum()) / count < 2.5 * FLAT_SHARE
    assert float(batch.gate[flat].max()) == 0
    assert torch.equal(batch.mask_known, flat), "that nobody is in it is known"


def test_the_same_seed_gives_the_same_batch() -> None:
    arguments = (_picture(96), _disc(96), torch.tensor([True]), torch.tensor([True]), 64, 12.0)
    first, second, other = (synthesise(*arguments, seed=s) for s in (4, 4, 5))
    assert torch.equal(first.blurry, second.blurry)
    assert not torch.equal(first.blurry, other.blurry)


def test_jpeg_at_high_quality_is_close_and_at_low_quality_is_not() -> None:
    picture = _picture(64)
    fine, coarse = (float((jpeg(picture, torch.tensor([q])) - picture).square().mean()) for q in (97.0, 10.0))
    assert fine < 2e-5 < coarse


def test_no_outline_stays_behind_a_person_who_moves() -> None:
    """The mask ends a pixel inside the person, as masks do; the background is grey and still."""
    linear = torch.full((1, 3, 64, 64), 0.2)
    linear[:, :, 20:44, 20:44] = 0.8
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[:, :, 21:43, 21:43] = 1
    still = torch.eye(2, 3).expand(1, 5, 2, 3).clone()
    moving = still.clone()
    moving[0, :, 0, 2] = torch.linspace(-12, 12, 5)
    rim = (slice(None), slice(None), slice(28, 36), slice(20, 21))
    blurred, _ = expose(linear, grow(alpha), still, moving, 64)
    naive, _ = expose(linear, alpha, still, moving, 64)
    assert float(naive[rim].mean()) > 0.6, "a rim that never moves"
    assert float(blurred[rim].mean()) < 0.62
    assert float(naive[rim].mean() - blurred[rim].mean()) > 0.05


def test_half_of_the_cameras_have_another_curve() -> None:
    gammas = random_gammas(4000, torch.Generator().manual_seed(0))
    assert abs(float((gammas == 0).float().mean()) - 0.5) < 0.03
    assert abs(float((gammas == 1).float().mean()) - 0.25) < 0.03
    assert float(gammas.max()) < 2.4


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.8])
def test_only_what_is_clipped_was_brighter_whatever_the_curve(gamma: float) -> None:
    photo = torch.tensor([200, 251, 255]).div(255)[None, None, None].expand(1, 3, 1, 3)
    light = to_light(photo, torch.tensor(gamma))
    raised = raise_highlights(light, photo, torch.full((1, 1, 1, 1), 2.0)) / light
    torch.testing.assert_close(raised[0, 0, 0], torch.tensor([1.0, 1.0, 3.0]))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.8])
def test_a_camera_curve_leaves_codes_as_they_are(gamma: float) -> None:
    codes, curve = torch.linspace(0, 1, 256), torch.tensor(gamma)
    torch.testing.assert_close(linear_light(to_light(codes, curve), curve), to_linear(codes), atol=1e-6, rtol=1e-5)
    bright = linear_light(torch.tensor([1.5, 2.0]), curve)
    assert float(bright[0]) > 1 and float(bright[1]) > float(bright[0])


def test_a_third_of_the_exposures_shows_copies_as_averaged_films_do() -> None:
    drawn = [_sub_frames(30.0, torch.Generator().manual_seed(seed)) for seed in range(300)]
    few = [times for times in drawn if times != 37]
    assert 60 < len(few) < 140 and set(few) == {7, 9, 11, 13}
    assert all(_sub_frames(2.5, torch.Generator().manual_seed(seed)) == 5 for seed in range(20))
