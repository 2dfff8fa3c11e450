# SPDX-License-Identifier: Apache-2.0
"""The end of a branch: what it promises beyond agreement with its twin (``test_equality.py``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from cases import residual_tensors, residual_tolerance

from crispstream.kernels import bindings, reference

Array = npt.NDArray[np.float32]


def arguments(channels: int, outputs: int, height: int, width: int, seed: int = 0) -> list[Array]:
    """Features, factors, weight, bias and a result full of NaN."""
    tensors = residual_tensors(np.random.default_rng(seed), channels, outputs, height, width)
    return [*tensors, blank(outputs, height, width)]


def blank(outputs: int, height: int, width: int) -> Array:
    return np.full((1, outputs, height, width), np.nan, np.float32)


@pytest.mark.parametrize(("channels", "width"), [(32, 1000), (64, 700), (48, 960)])
def test_frames_wider_than_the_window(channels: int, width: int) -> None:
    """Columns are cut into strips that fit the cache: no seam shows, and threads change no bit."""
    given_, expected = arguments(channels, 12, 6, width), blank(12, 6, width)
    reference.residual(*given_[:4], expected)
    results = []
    for threads in (1, 2, 3):
        bindings.residual(*given_, threads)
        np.testing.assert_allclose(given_[4], expected, rtol=0, atol=residual_tolerance(channels))
        results.append(given_[4].tobytes())
    assert len(set(results)) == 1


def test_one_feature_reaches_its_neighbours_only() -> None:
    """A single feature times its factor: the kernel appears mirrored around it, in every channel."""
    features, factors, weight, bias, out = arguments(3, 12, 8, 40)
    features[:] = 0
    features[0, 1, 5, 17] = 2
    bindings.residual(features, factors, weight, bias, out)
    expected = np.broadcast_to(bias[:, None, None], out.shape[1:]).copy()
    expected[:, 4:7, 16:19] += 2 * factors[0, 1, 2, 8] * weight[:, 1, ::-1, ::-1]
    np.testing.assert_allclose(out[0], expected, rtol=0, atol=1e-6)


def test_what_is_not_finite_stays_among_its_neighbours() -> None:
    """The blend drops and counts it; it must not spread over a block."""
    given_ = arguments(4, 12, 16, 64)
    given_[0][0, 2, 8, 30] = np.nan
    bindings.residual(*given_)
    wrong = np.isnan(given_[4][0])
    assert wrong[:, 7:10, 29:32].all() and wrong.sum() == 12 * 9


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, np.zeros((1, 4, 7, 8), np.float32), "features must be"),
        (0, np.zeros((4, 8, 8), np.float32), "four dimensions"),
        (0, np.zeros((1, 4, 8, 8), np.float16), "features is float16"),
        (1, np.zeros((1, 4, 8, 8), np.float32), "factors must be"),
        (2, np.zeros((12, 3, 3, 3), np.float32), "weight must be"),
        (2, np.zeros((12, 4, 3, 3), np.float32)[..., ::-1], "weight must be"),
        (3, np.zeros(11, np.float32), "bias must be"),
        (4, np.zeros((1, 12, 8, 6), np.float32), "out must be"),
    ],
)
def test_wrong_arguments(position: int, wrong: npt.NDArray[np.floating], message: str) -> None:
    given_ = arguments(4, 12, 8, 8)
    given_[position] = wrong  # type: ignore[call-overload]
    for module in (bindings, reference):
        with pytest.raises(ValueError, match=message):
            module.residual(*given_)


def test_wrong_threads_and_a_result_that_may_not_be_written() -> None:
    given_ = arguments(4, 12, 8, 8)
    with pytest.raises(ValueError, match="argument"):
        bindings.residual(*given_, threads=0)
    given_[4].flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        bindings.residual(*given_)
