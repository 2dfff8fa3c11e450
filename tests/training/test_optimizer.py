# SPDX-License-Identifier: Apache-2.0
"""Muon's steps are orthogonal and of a known size, Adam's are Adam's."""

from __future__ import annotations

import pytest
import torch

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training.optimizer import BETAS, OUTPUT_RATE, VECTOR_RATE, MuonAdam, orthogonal

RATE = 0.01


@pytest.mark.parametrize("shape", [(48, 288), (64, 48), (24, 24)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    # Singular values over a factor of 30, which Newton-Schulz' five steps can still bring together.
    u, v = (torch.linalg.qr(torch.randn(n, min(shape)))[0] for n in shape)
    values = torch.linalg.svdvals(orthogonal(u @ torch.diag(torch.logspace(-1.5, 0, min(shape))) @ v.T))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def stepped(times: int) -> tuple[dict[str, torch.Tensor], HumanAwareNet, MuonAdam]:
    torch.manual_seed(0)
    net = HumanAwareNet(preset("nano"))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = MuonAdam(net, RATE)
    for _ in range(times):
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return {name: before[name] - p.detach() for name, p in net.named_parameters()}, net, optimizer


def test_the_first_step_has_the_size_that_the_rate_says() -> None:
    moved, _, _ = stepped(1)
    # 0.2 sqrt(max(M, N)) times an orthogonal (M, N) matrix: root mean square 0.2, give or take the singular values.
    assert float(moved["encoder.down1.weight"].square().mean().sqrt()) == pytest.approx(0.2 * RATE, rel=0.25)
    # Adam's first step is the sign of the gradient.
    assert float(moved["encoder.down1.bias"].abs().max()) == pytest.approx(VECTOR_RATE * RATE, rel=1e-3)
    assert float(moved["foreground.out.weight"].abs().max()) == pytest.approx(OUTPUT_RATE * RATE, rel=1e-3)


def test_vectors_move_as_torchs_adam_moves_them() -> None:
    _, net, _ = stepped(0)
    bias = net.encoder.stem.bias
    twin = torch.nn.Parameter(bias.detach().clone())
    ours, theirs = MuonAdam(net, RATE), torch.optim.Adam([twin], lr=VECTOR_RATE * RATE, betas=BETAS)
    for _ in range(5):
        bias.grad = torch.randn_like(bias)
        twin.grad = bias.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(bias, twin, rtol=1e-6, atol=1e-8)


def test_it_learns_what_a_convolution_was() -> None:
    torch.manual_seed(1)
    net, wanted = HumanAwareNet(preset("nano")), torch.nn.Conv2d(32, 48, 3, 2, 1)
    optimizer, errors = MuonAdam(net, RATE), []
    for _ in range(60):
        x = torch.randn(2, 32, 8, 8)
        error = (net.encoder.down1(x) - wanted(x).detach()).square().mean()
        net.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error))
    assert errors[-1] < 0.3 * errors[0]


def test_a_parameter_without_gradient_stays() -> None:
    net = HumanAwareNet(preset("nano"))
    before = net.encoder.stem.weight.detach().clone()
    MuonAdam(net, RATE).step()
    assert torch.equal(net.encoder.stem.weight, before)
