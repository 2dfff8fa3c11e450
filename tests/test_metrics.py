# SPDX-License-Identifier: Apache-2.0
"""PSNR and SSIM against what they are defined to be."""

from __future__ import annotations

import numpy as np
import pytest

from crispstream.metrics import psnr, ssim, ssim_map


def _pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 256, (9, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    noisy = np.clip(truth + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    return noisy, truth


def test_psnr_of_a_known_error() -> None:
    truth = np.full((4, 6, 3), 100, np.uint8)
    assert psnr(truth + 5, truth) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(truth, truth) > 100
    half = truth.astype(np.float32) + np.float32(0.5)
    assert psnr(half, truth) == pytest.approx(20 * np.log10(255 / 0.5)), "codes need not be whole"


def test_weighted_psnr_looks_only_where_the_weight_is() -> None:
    truth = np.full((4, 6, 3), 100, np.uint8)
    picture, weight = truth.copy(), np.zeros((4, 6), np.float32)
    picture[:, :2] += 8
    picture[:, 2:] += 2
    weight[:, :2] = 1
    assert psnr(picture, truth, weight) == pytest.approx(20 * np.log10(255 / 8))
    assert psnr(picture, truth, 1 - weight) == pytest.approx(20 * np.log10(255 / 2))
    assert psnr(picture, truth, np.ones_like(weight)) == pytest.approx(psnr(picture, truth))


def test_ssim_equals_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    for seed in range(3):
        pair = _pair(seed)
        luma = [p.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) for p in pair]
        theirs = metrics.structural_similarity(
            *luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(*pair) == pytest.approx(theirs, abs=1e-9)


def test_ssim_is_one_for_equals_and_a_map_inside_the_margin() -> None:
    noisy, truth = _pair()
    assert ssim(truth, truth) == pytest.approx(1)
    assert ssim(noisy, truth) < 0.95
    part = noisy.copy()
    part[:, :24] = truth[:, :24]
    found = ssim_map(part, truth)
    assert found.shape == (truth.shape[0] - 10, truth.shape[1] - 10)
    assert found[:, : 24 - 10].min() == pytest.approx(1) and found[:, 24:].mean() < 0.95


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    noisy, truth = _pair()
    with pytest.raises(ValueError, match="11x11"):
        ssim(noisy[:10], truth[:10])
    with pytest.raises(ValueError, match="equal sizes"):
        ssim(noisy[1:], truth)
