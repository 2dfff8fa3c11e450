# SPDX-License-Identifier: Apache-2.0
"""Weights of the first convolution on an 8-bit grid, rounded so that its outputs stay where they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

LARGEST = 64
"""Largest weight in steps: 7 bits, as ONNX Runtime's ``reduce_range`` has it. Without VNNI, x86-64 adds up two products
of 8-bit numbers in 16 bits: 8-bit weights saturate that, these do not. So every processor computes the same."""
STRIDE = 3
"""Every how many pixels, along both axes, a neighbourhood is counted."""
DAMPING = 1e-4
"""Of the mean variance, added to each: neighbourhoods that the frames do not show must not decide."""
FLOOR = 1 / 255**2
"""Least mean variance, that of one step of the input: where nothing is shown each weight is rounded on its own."""


def neighbourhoods(packed: Iterable[Array]) -> npt.NDArray[np.float64]:
    """Second moments (9 C, 9 C) of what a 3x3 convolution sees of the inputs (1, C, H, W), zero padding included."""
    total, count = np.float64(0), 0
    for one in packed:
        padded = np.pad(one[0], ((0, 0), (1, 1), (1, 1)))
        seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::STRIDE, ::STRIDE]
        rows = seen.transpose(1, 2, 0, 3, 4).reshape(-1, 9 * one.shape[1]).astype(np.float64)
        total, count = total + rows.T @ rows, count + len(rows)
    return np.asarray(total / count)


def round_weights(weight: Array, moments: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """``weight`` (O, C, 3, 3) as multiples of a step for each output, and the steps (O,).

    One weight after another is rounded, and what that changes is made up for by those that follow, as far as the inputs
    are correlated (Frantar et al., GPTQ, ICLR 2023). The inputs are pixels, which are nearly the same as their
    neighbours, and the filters look at small differences: plain rounding lets brightness leak into every one of them.
    """
    damped = moments + DAMPING * max(np.diag(moments).mean(), FLOOR) * np.eye(len(moments))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight.reshape(len(weight), -1).astype(np.float64)
    steps = np.maximum(np.abs(left).max(1), 1e-12) / LARGEST
    rounded = np.zeros_like(left)
    for i in range(left.shape[1]):
        rounded[:, i] = np.clip(np.rint(left[:, i] / steps), -LARGEST, LARGEST) * steps
        missing = (left[:, i] - rounded[:, i]) / upper[i, i]
        left[:, i + 1 :] -= np.outer(missing, upper[i, i + 1 :])
    return rounded.reshape(weight.shape).astype(np.float32), steps.astype(np.float32)
