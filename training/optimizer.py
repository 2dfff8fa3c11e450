# SPDX-License-Identifier: Apache-2.0
"""Muon for convolutions (Jordan et al. 2024), Adam for everything else.

What it, normalised convolutions and slow outputs are worth: docs/ablations.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crispstream.model.network import Branch

MOMENTUM = 0.95
BETAS = (0.9, 0.99)
VECTOR_RATE = 0.1
"""Learning rate of biases, of normalisation and of what reads motion, as a share of the convolutions'."""
OUTPUT_RATE = 0.02
"""The same for the layers that write residuals: a residual is about 0.03, so that a full step would be all noise."""


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearest (semi-)orthogonal matrix to (M, N), singular values within about 0.7 to 1.2: Newton-Schulz, quintic."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class MuonAdam(torch.optim.Optimizer):
    """``rate``: of the convolutions, in the units of Adam (an update's root mean square is 0.2 times it)."""

    def __init__(self, net: nn.Module, rate: float) -> None:
        outputs = [p for m in net.modules() if isinstance(m, Branch) for p in m.out.parameters()]
        known = {id(p) for p in outputs}
        inner = [p for p in net.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in inner if p.ndim == 4], "share": 1.0, "orthogonal": True},
            {"params": [p for p in inner if p.ndim != 4], "share": VECTOR_RATE, "orthogonal": False},
            {"params": outputs, "share": OUTPUT_RATE, "orthogonal": False},
        ]
        super().__init__(groups, {})
        self.rate = rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. ValueError for a closure: there is no use for it."""
        if closure is not None:
            raise ValueError("MuonAdam takes no closure")
        for group in self.param_groups:
            update = self._muon if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(update(parameter), alpha=self.rate * group["share"])

    def _muon(self, parameter: nn.Parameter) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["exp_avg"] = torch.zeros_like(gradient)
        mean = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(mean, MOMENTUM).reshape(len(gradient), -1)
        return (orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)).view_as(parameter)

    def _adam(self, parameter: nn.Parameter) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state |= {"exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient), "step": 0}
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - BETAS[0])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - BETAS[1])
        mean_share, square_share = (1 - beta ** state["step"] for beta in BETAS)
        return (mean / mean_share) / ((square / square_share).sqrt() + 1e-8)
