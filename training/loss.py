# SPDX-License-Identifier: Apache-2.0
"""What the network is trained for: the picture and its spectrum, the guide's, the mask, the gate, the motion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crispstream.model.network import Output
from training.supervised import Taught
from training.synthesis import Batch

PICTURE_WEIGHT = 0.03
FREQUENCY_WEIGHT = 4.0
"""Gives the spectrum about a third of the picture's gradient where the output is the blurred input."""

GUIDE_WEIGHT = 0.5
MASK_WEIGHT, GATE_WEIGHT, MOTION_WEIGHT = 0.05, 0.02, 1.0
FLOOR = 3e-5
"""Mean squared error (45 dB) below which better is worth little: sharp frames must not outweigh blurred ones."""


def _pooled(label: Tensor, predicted: Tensor) -> Tensor:
    return F.avg_pool2d(label, label.shape[-1] // predicted.shape[-1])


def _mean_of_known(error: Tensor, known: Tensor) -> Tensor:
    return (error.mean((1, 2, 3)) * known).sum() / known.sum().clamp(min=1)


def _label_loss(predicted: Tensor, label: Tensor, known: Tensor) -> Tensor:
    likely = predicted.float().clamp(1e-4, 1 - 1e-4)
    return _mean_of_known(F.binary_cross_entropy(likely, _pooled(label, predicted), reduction="none"), known)


def motion_loss(predicted: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of the motion (N, DIRECTIONS, H', W') where it is known; a scalar in FP32, weighted."""
    error = (predicted.float() - _pooled(batch.motion, predicted)).square()
    return MOTION_WEIGHT * _mean_of_known(error, batch.gate_known)


def frequency_loss(image: Tensor, sharp: Tensor) -> Tensor:
    """Mean absolute difference of real and imaginary parts of the Fourier transforms (MIMO-UNet, ICCV 2021).

    Two (N, 3, H, W) in any floating type -> scalar in FP32. Orthonormal, so that its weight fits every crop size.
    """
    spectrum = torch.fft.rfft2(image.float() - sharp.float(), norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def picture_loss(image: Tensor, sharp: Tensor) -> Tensor:
    """Negative PSNR of each picture (as NAFNet trains, ECCV 2022) and its spectrum: two (N, 3, H, W) -> scalar in FP32,
    weighted."""
    error = (image.float() - sharp).square().mean((1, 2, 3))
    return PICTURE_WEIGHT * 10 * torch.log10(error + FLOOR).mean() + FREQUENCY_WEIGHT * frequency_loss(image, sharp)


def guide_loss(guidance: Tensor, batch: Batch) -> Tensor:
    """``picture_loss`` of what the guide makes of the frames at half their size, weighted."""
    blurry, sharp = (F.avg_pool2d(image, 2) for image in (batch.blurry, batch.sharp))
    return GUIDE_WEIGHT * picture_loss(blurry + guidance.float(), sharp)


def total_loss(output: Output, batch: Batch) -> Tensor:
    """The picture, and cross-entropy of mask and gate where known. FP32 whatever the network computes in; call it
    outside autocast."""
    mask = _label_loss(output.head[:, :1], batch.mask, batch.mask_known)
    gate = _label_loss(output.head[:, 1:], batch.gate, batch.gate_known)
    return picture_loss(output.image, batch.sharp) + MASK_WEIGHT * mask + GATE_WEIGHT * gate


def taught_loss(taught: Taught, batch: Batch) -> Tensor:
    """``total_loss`` of the output, the motion, and the guide where there is one."""
    loss = total_loss(taught.output, batch) + motion_loss(taught.motion, batch)
    return loss if taught.guidance is None else loss + guide_loss(taught.guidance, batch)
