# SPDX-License-Identifier: Apache-2.0
"""The trainer on photographs that the test draws: it learns, resumes exactly, and its figures mean what they say."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training.dataset import HighSpeedSet, average_exposure, read_manifest
from training.evaluate import align, averaged_pairs, evaluate, psnr, score
from training.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn photographs (four with a person), and 40 frames of a moving pattern."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "masks", "court240"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,mask,mask_class,people,split"]
    for index in range(6):
        picture = cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (160, 160), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros((160, 160), np.uint8)
        cv2.circle(mask, (80, 80), 40, 255, -1)
        cv2.imwrite(str(folder / f"images/{index}.png"), picture)
        cv2.imwrite(str(folder / f"masks/{index}.png"), mask)
        person = "person,yes" if index < 4 else ",no"
        name = f"masks/{index}.png" if index < 4 else ""
        rows.append(f"images/{index}.png,{name},{person},{'train' if index % 2 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    pattern = cv2.resize(rng.integers(0, 256, (24, 24, 3), np.uint8), (240, 240), interpolation=cv2.INTER_NEAREST)
    for index in range(40):
        cv2.imwrite(str(folder / f"court240/{index:03}.jpg"), pattern[20:180, index : index + 160])
    return folder


def arguments(data: Path, run: Path, steps: int) -> Namespace:
    return Namespace(
        preset="nano", data=data, run=run, steps=8, minutes=1e9, save_minutes=1e9, batch=2, crop=32, rate=1e-3, reuse=2,
        seed=1, device="cpu", stop_after=steps, threads=0,
    )  # fmt: skip


def test_resuming_continues_exactly(data: Path, tmp_path: Path) -> None:
    train(arguments(data, tmp_path / "whole", 8))
    first = train(arguments(data, tmp_path / "parts", 5))
    assert first.step == 5
    second = train(arguments(data, tmp_path / "parts", 8))
    assert second.step == 8
    whole, parts = (load_file(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, msg=name)
    recipe = json.loads((tmp_path / "parts" / "training.json").read_text())
    assert recipe["steps"] == 8 and recipe["photographs"] == 3 and recipe["high_speed_frames"] == 40
    weights = load_file(tmp_path / "parts" / "weights.safetensors")
    assert {v.dtype for v in weights.values()} == {torch.float16}


def test_the_manifest_tells_what_may_be_learnt(data: Path) -> None:
    photos = read_manifest(data, "train") + read_manifest(data, "val")
    assert [(p.is_person, p.mask_known) for p in photos].count((True, True)) == 4
    assert [(p.is_person, p.mask_known) for p in photos].count((False, True)) == 2
    with pytest.raises(FileNotFoundError, match="no photographs of split 'test'"):
        read_manifest(data, "test")


def test_high_speed_frames_blur_and_have_no_labels(data: Path) -> None:
    batch = HighSpeedSet(data / "court240").batch(3, 64, 7, torch.device("cpu"))
    assert batch.blurry.shape == (3, 3, 64, 64)
    assert not batch.mask_known.any() and not batch.gate_known.any()
    assert float((batch.blurry - batch.sharp).square().mean()) > 1e-4


def test_average_exposure_adds_light_not_codes() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert average_exposure([black, white])[0, 0, 0] == 188  # half the light, IEC 61966-2-1
    assert np.array_equal(average_exposure([white, white]), white)


def test_alignment_finds_a_shift() -> None:
    rng = np.random.default_rng(1)
    scene = cv2.resize(rng.integers(0, 256, (16, 16, 3), np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC)
    truth, shifted = scene[10:170, 10:170], np.ascontiguousarray(scene[10:170, 13:173])
    assert psnr(truth[10:-10, 10:-10], shifted[10:-10, 10:-10]) < 30
    assert psnr(align(truth, shifted)[10:-10, 10:-10], shifted[10:-10, 10:-10]) > 40


def test_an_untrained_network_gains_nothing_and_harms_nothing(data: Path) -> None:
    net = HumanAwareNet(preset("nano")).eval()
    for one in score(net, averaged_pairs(data / "court240")):
        assert one.restored == pytest.approx(one.blurred, abs=1e-6)
    figures = evaluate(net, None, data / "court240", None)
    assert figures["averaged_240fps"]["gain"] == 0 and figures["averaged_240fps"]["pictures"] == 3
