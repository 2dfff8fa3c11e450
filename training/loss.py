# SPDX-License-Identifier: Apache-2.0
"""What the network is trained for: the picture, the person mask, the blur gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crispstream.model.network import Output
from training.synthesis import Batch

PICTURE_WEIGHT = 0.03
LABEL_WEIGHT = 0.02
FLOOR = 1e-4
"""Mean squared error (40 dB) below which better is worth little: sharp frames must not outweigh blurred ones."""


def _label_loss(predicted: Tensor, label: Tensor, known: Tensor) -> Tensor:
    pooled = F.avg_pool2d(label, label.shape[-1] // predicted.shape[-1])
    per_sample = F.binary_cross_entropy(predicted.float().clamp(1e-4, 1 - 1e-4), pooled, reduction="none").mean(
        (1, 2, 3)
    )
    return (per_sample * known).sum() / known.sum().clamp(min=1)


def total_loss(output: Output, batch: Batch) -> Tensor:
    """Negative PSNR of each picture (as NAFNet trains, ECCV 2022), cross-entropy of mask and gate where known."""
    error = (output.image - batch.sharp).float().square().mean((1, 2, 3))
    picture = 10 * torch.log10(error + FLOOR).mean()
    mask = _label_loss(output.head[:, :1], batch.mask, batch.mask_known)
    gate = _label_loss(output.head[:, 1:], batch.gate, batch.gate_known)
    return PICTURE_WEIGHT * picture + LABEL_WEIGHT * (mask + gate)
