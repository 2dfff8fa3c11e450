# SPDX-License-Identifier: Apache-2.0
"""The trainer on drawn photographs: it learns, resumes, and writes what it says."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crispstream.errors import InputError
from crispstream.export.frames import stress_frames
from training import train as trainer
from training.checkpoint import INDEX, Progress
from training.curves import draw
from training.dataset import HighSpeedSet, average_exposure, read_manifest
from training.headroom import with_headroom
from training.samples import SampleStream
from training.schedule import Shape

RATE = 1e-3


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Little to validate on, and small stress frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "VALIDATION", Shape(32, 2))
        patch.setattr(trainer, "VALIDATION_BATCHES", 1)
        patch.setattr(trainer, "with_headroom", lambda net: with_headroom(net, stress_frames({}, 32, 32)))
        yield


def session(data: Path, run: Path, stop: int, *more: str) -> Progress:
    line = ["--preset", "nano", "--data", str(data), "--run", str(run), "--steps", "4", "--stop-after", str(stop)]
    line += ["--batch", "1", "--crop", "32", "--reuse", "2", "--seed", "1", "--device", "cpu", "--rate", str(RATE)]
    line += ["--no-compile"]  # it would take longer than all steps
    arguments: Namespace = trainer.parser().parse_args(line + list(more))
    return trainer.train(arguments)


def stored(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoint"
    names = json.loads((folder / INDEX).read_text())["shards"]
    return {name: tensor for shard in names for name, tensor in load_file(folder / shard).items()}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps in one go, moments stored in FP32."""
    run = tmp_path_factory.mktemp("whole")
    assert session(data, run, 4, "--moments", "fp32").step == 4
    return run


def test_resuming_with_fp32_moments_continues_bit_for_bit(data: Path, whole: Path, tmp_path: Path) -> None:
    assert session(data, tmp_path / "first", 2, "--moments", "fp32").step == 2
    resume = ("--moments", "fp32", "--resume", str(tmp_path / "first"))
    progress = session(data, tmp_path / "second", 4, *resume)
    assert (progress.step, progress.updates) == (4, 4)
    once, twice = stored(whole), stored(tmp_path / "second")
    assert once.keys() == twice.keys()
    assert [name for name, value in once.items() if not torch.equal(value, twice[name])] == []


def test_resuming_with_bf16_moments_strays_less_than_a_third_of_a_step(data: Path, whole: Path, tmp_path: Path) -> None:
    # What is stored is exact, but for the moments, which keep 8 bits. Muon brings the smallest directions of a gradient
    # up to the size of the largest, and their rounding with them. (Learning rate in the warm-up: 3 / 200 and 4 / 200.)
    session(data, tmp_path, 2)
    half = stored(tmp_path)
    assert {v.dtype for k, v in half.items() if k.startswith("exp_avg")} == {torch.bfloat16}
    others = {v.dtype for k, v in half.items() if not k.startswith("exp_avg") and not k.endswith("num_batches_tracked")}
    assert others == {torch.float32}
    session(data, tmp_path, 4)
    once, twice = stored(whole), stored(tmp_path)
    names = [name for name in once if name.startswith("net.")]
    strays = [(once[n] - twice[n]).abs() - 2 * torch.finfo(torch.float32).eps * once[n].abs() for n in names]
    assert any(not torch.equal(once[n], twice[n]) for n in names)
    assert max(float(s.max()) for s in strays) < 0.3 * RATE * (3 + 4) / 200


def test_a_session_leaves_weights_recipe_and_curves(whole: Path) -> None:
    recipe = json.loads((whole / "training.json").read_text())
    assert recipe["steps"] == 4 and recipe["photographs"] == 3 and recipe["high_speed_frames"] == 40
    assert {v.dtype for v in load_file(whole / "weights.safetensors").values()} == {torch.float16}
    assert cv2.imread(str(whole / "curves.png")).shape == (560, 800, 3)
    progress = json.loads((whole / "checkpoint" / INDEX).read_text())["progress"]
    names = {name for name, value in stored(whole).items() if name.startswith("exp_avg.") and value.any()}
    assert "exp_avg.motion.weight" in names, "motion is asked for"
    assert "net.motion.weight" in stored(whole) and not any(
        "motion" in name for name in load_file(whole / "weights.safetensors")
    )
    assert [step for step, _ in progress["losses"]] == [1, 2, 3, 4] and [s for s, _ in progress["gains"]] == [4]


def test_a_checkpoint_that_is_asked_for_must_be_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        session(data, tmp_path / "run", 2, "--resume", str(tmp_path / "nowhere"))


def test_no_time_means_no_step(data: Path, tmp_path: Path) -> None:
    assert session(data, tmp_path, 4, "--minutes", "0").step == 0


def test_batches_depend_on_the_step_alone_and_grow(data: Path) -> None:
    def stream() -> SampleStream:
        return SampleStream(data, 8, Shape(128, 1), 2, 5, torch.device("cpu"))

    through, late = stream(), stream()
    batches = [through.batch(step) for step in range(8)]
    assert [b.blurry.shape[0] for b in batches] == [4, 4, 4, 4, 2, 2, 1, 1]
    assert [b.blurry.shape[-1] for b in batches] == [64, 64, 64, 64, 96, 96, 128, 128]
    for step in (5, 7):
        for a, b in zip(late.batch(step), batches[step], strict=True):
            assert torch.equal(a, b)
    through.close()
    late.close()


def test_a_curve_is_drawn_from_left_to_right() -> None:
    falling = draw("loss", [(0, 1.0), (50, float("nan")), (100, 0.0)], 100)
    line = np.argwhere((falling == (180, 90, 20)).all(2))
    left, right = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert left[0] < 45 and right[0] > 240 and right[1] - left[1] > 690
    assert draw("nothing yet", [], 0).shape == falling.shape


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


def test_average_exposure_adds_light_by_the_camera_curve() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert average_exposure([black, white])[0, 0, 0] == 188  # half the light, IEC 61966-2-1
    assert average_exposure([black, white], 1.0)[0, 0, 0] == 128  # half the code: a film's frames, averaged
    for gamma in (0.0, 1.0, 1.7):
        assert np.array_equal(average_exposure([white, white], gamma), white)
