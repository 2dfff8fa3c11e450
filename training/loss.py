# SPDX-License-Identifier: Apache-2.0
"""What the network is trained for: the picture, its spectrum, the person mask, the blur gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crispstream.model.network import Output
from training.synthesis import Batch

SPECTRUM_WEIGHT = 0.02
LABEL_WEIGHT = 0.02


def _label_loss(predicted: Tensor, label: Tensor, known: Tensor) -> Tensor:
    pooled = F.avg_pool2d(label, label.shape[-1] // predicted.shape[-1])
    per_sample = F.binary_cross_entropy(predicted.float().clamp(1e-4, 1 - 1e-4), pooled, reduction="none").mean((1, 2, 3))
    return (per_sample * known).sum() / known.sum().clamp(min=1)


def total_loss(output: Output, batch: Batch) -> Tensor:
    """L1 + spectrum L1 (as in MIMO-UNet, ICCV 2021) + cross-entropy of mask and gate where their labels are known."""
    picture = F.l1_loss(output.image, batch.sharp)
    difference = torch.fft.rfft2((output.image - batch.sharp).float(), norm="ortho")
    spectrum = difference.abs().mean()
    mask = _label_loss(output.head[:, :1], batch.mask, batch.mask_known)
    gate = _label_loss(output.head[:, 1:], batch.gate, batch.gate_known)
    return picture + SPECTRUM_WEIGHT * spectrum + LABEL_WEIGHT * (mask + gate)
