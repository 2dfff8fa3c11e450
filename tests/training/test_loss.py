# SPDX-License-Identifier: Apache-2.0
"""The terms of the loss against what they stand for, and the schedule against its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crispstream.model.network import Output
from crispstream.model.presets import PRESETS
from training.loss import (
    FLOOR,
    GUIDE_WEIGHT,
    MOTION_WEIGHT,
    PICTURE_WEIGHT,
    frequency_loss,
    guide_loss,
    taught_loss,
    total_loss,
)
from training.schedule import STAGES, Shape, rate_at, shape_at
from training.supervised import Taught
from training.synthesis import Batch


def test_the_frequency_term_is_the_l1_of_numpy_spectra() -> None:
    a, b = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    difference = np.fft.rfft2((a - b).numpy(), norm="ortho")
    expected = np.stack((difference.real, difference.imag)).__abs__().mean()
    assert float(frequency_loss(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(frequency_loss(a, a)) == 0


def test_the_frequency_term_is_fp32_for_bf16_pictures() -> None:
    picture = torch.rand(1, 3, 16, 16).bfloat16().requires_grad_()
    loss = frequency_loss(picture, torch.rand(1, 3, 16, 16))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert picture.grad is not None and bool(picture.grad.isfinite().all())


def test_each_error_raises_the_loss() -> None:
    sharp, label = torch.full((1, 3, 16, 16), 0.5), torch.zeros(1, 1, 16, 16)
    yes = torch.tensor([True])
    batch = Batch(sharp, sharp, label, label, label.expand(1, 4, 16, 16), yes, yes)
    head, nothing = torch.zeros(1, 2, 2, 2), torch.zeros(1, 48, 4, 4)
    right = total_loss(Output(sharp, head, nothing, nothing), batch)
    for wrong in (Output(sharp + 0.1, head, nothing, nothing), Output(sharp, head + 0.9, nothing, nothing)):
        assert float(total_loss(wrong, batch)) > float(right)
    unknown = batch._replace(mask_known=~yes, gate_known=~yes)
    assert float(total_loss(Output(sharp, head + 0.9, nothing, nothing), unknown)) == pytest.approx(
        float(total_loss(Output(sharp, head, nothing, nothing), unknown))
    )


def test_the_guide_is_measured_on_the_halved_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp, label = torch.rand(1, 3, 16, 16, generator=generator), torch.zeros(1, 1, 16, 16)
    yes = torch.tensor([True])
    batch = Batch(sharp * 0.5, sharp, label, label, label.expand(1, 4, 16, 16), yes, yes)
    halved = sharp.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    losses = [float(guide_loss(halved * share, batch)) for share in (0.5, 0.45, 0.55, 0.0)]
    assert min(losses) == losses[0] == pytest.approx(GUIDE_WEIGHT * PICTURE_WEIGHT * 10 * np.log10(FLOOR), rel=1e-4)
    output = Output(sharp, torch.zeros(1, 2, 2, 2), label, label)
    taught = Taught(output, torch.zeros(1, 4, 2, 2), None)
    alone = float(taught_loss(taught, batch))
    assert float(taught_loss(taught._replace(guidance=halved * 0.5), batch)) == pytest.approx(alone + losses[0])
    moved = taught_loss(taught._replace(motion=torch.ones(1, 4, 2, 2)), batch)
    assert float(moved) == pytest.approx(alone + MOTION_WEIGHT)


@pytest.mark.parametrize("full", [Shape(128, 8), Shape(256, 16), Shape(192, 6)])
def test_crops_grow_while_pixels_per_step_stay(full: Shape) -> None:
    shapes = [shape_at(step, 100, full) for step in range(100)]
    sizes = [shape.size for shape in shapes]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(STAGES)
    assert shapes[0].size == full.size // 2 and shapes[-1] == full
    assert all(size % max(p.multiple for p in PRESETS.values()) == 0 for size in sizes)
    pixels = [shape.crops * shape.size**2 for shape in shapes]
    assert max(pixels) / min(pixels) < 1.15


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [rate_at(step, 10_000, 1.0) for step in range(10_001)]
    assert rates[0] == pytest.approx(1 / 200) and rates[199] > 0.99
    assert rates[200:] == sorted(rates[200:], reverse=True) and rates[-1] == pytest.approx(0.01)
