# SPDX-License-Identifier: Apache-2.0
"""The figures mean what they say: drawn pictures whose answers are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from crispstream.metrics import psnr
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training import evaluate as command
from training.evaluate import evaluate, measure, restore
from training.measures import Quality, Score, change_error, quality, region, summary, temporal_summary
from training.sheets import busiest_squares
from training.testsets import averaged_clip, davis_samples, read_pairs


def _texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(
        rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )


def _identity() -> HumanAwareNet:
    torch.manual_seed(0)
    return HumanAwareNet(preset("nano")).eval()


def _loud(amount: float) -> HumanAwareNet:
    """Adds about ``amount`` (sRGB, 0 to 1) to every pixel, gate fully open."""
    net = _identity()
    with torch.no_grad():
        net.encoder.head_out.weight.zero_()
        net.encoder.head_out.bias.copy_(torch.tensor([0.0, 20.0]))
        for branch in (net.foreground, net.background):
            branch.out.bias.fill_(amount)
    return net


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, one with a mask; a film of a disc with its masks; 30 frames of a moving pattern."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("pairs", "davis/disc/frames", "davis/disc/masks", "court240"):
        (folder / name).mkdir(parents=True)
    disc = np.zeros((112, 160), np.uint8)
    cv2.circle(disc, (60, 50), 30, 255, -1)
    for index in range(2):
        sharp = _texture(112, 160, index)
        blurred = cv2.blur(sharp, (7, 1))
        cv2.imwrite(str(folder / f"pairs/{index}_sharp.webp"), sharp, [cv2.IMWRITE_WEBP_QUALITY, 101])
        cv2.imwrite(str(folder / f"pairs/{index}_blur.webp"), blurred, [cv2.IMWRITE_WEBP_QUALITY, 101])
    cv2.imwrite(str(folder / "pairs/1_mask.png"), disc)
    for index in range(6):
        cv2.imwrite(str(folder / f"davis/disc/frames/{index:05}.jpg"), _texture(112, 160, 5))
        cv2.imwrite(str(folder / f"davis/disc/masks/{index:05}.png"), disc)
    wide = _texture(96, 192, 7)
    for index in range(30):
        cv2.imwrite(str(folder / f"court240/{index:03}.jpg"), wide[:, index : index + 96])
    return folder


def test_pairs_come_with_the_masks_that_are_there(data: Path) -> None:
    first, second = read_pairs(data / "pairs")
    assert (first.name, second.name) == ("0", "1") and first.person is None
    assert second.person is not None and second.person.max() == 1 and second.person.shape == (112, 160)
    with pytest.raises(FileNotFoundError, match=r"no .*_blur"):
        list(read_pairs(data))


def test_a_film_is_blurred_about_its_person(data: Path) -> None:
    first, second = davis_samples(data / "davis")
    assert (first.name, second.name) == ("disc-00000", "disc-00005")
    assert first.blurred.shape == first.sharp.shape == (80, 80, 3)
    assert first.person is not None and 0.2 < first.person.mean() < 0.7
    assert not np.array_equal(first.person, second.person), "each frame moves in its own way"
    frame = cv2.cvtColor(cv2.imread(str(data / "davis/disc/frames/00000.jpg")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(first.sharp, frame[16:96, 20:100]), "the frame itself is the truth"
    assert 15 < psnr(first.blurred, first.sharp) < 40


def test_clips_are_centred_means(data: Path) -> None:
    clip = list(averaged_clip(data / "court240", 7, 8))
    assert [s.name for s in clip] == ["003-7", "011-7", "019-7"]
    middle = cv2.cvtColor(cv2.imread(str(data / "court240/011.jpg")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(clip[1].sharp, middle) and not np.array_equal(clip[1].blurred, middle)


def test_regions_are_measured_apart() -> None:
    truth = _texture(96, 96)
    blurred, restored = cv2.blur(truth, (5, 5)), cv2.blur(truth, (5, 5))
    restored[:, :48] = truth[:, :48]
    left = np.zeros((96, 96), np.float32)
    left[:, :40] = 1
    good, bad = region(blurred, restored, truth, left), region(blurred, restored, truth, np.fliplr(left))
    assert good is not None and bad is not None
    assert good.restored > 90 and good.ssim_restored > good.ssim_blurred
    assert bad.restored == bad.blurred and bad.ssim_restored == bad.ssim_blurred
    assert quality(blurred, restored, truth).blurred < quality(blurred, restored, truth).restored
    assert region(truth, restored, truth, left) is None, "not blurred"
    assert region(blurred, restored, truth, left * 0) is None, "nobody there"


def test_summary_counts_what_got_worse() -> None:
    person, none = Quality(20, 23, 0.5, 0.6), {"person": None, "background": None}
    scores = [
        Score(20, 22, 0.5, 0.6, 50, person, Quality(20, 19, 0.5, 0.4), common=30, either=40, person_pixels=60),
        Score(30, 29, 0.7, 0.7, 40, **none),
        Score(99, 80, 1.0, 0.9, 60, **none),
    ]
    found = summary(scores)
    assert (found["pictures"], found["nearly_sharp"]) == (2, 1)
    assert (found["gain"], found["worse"], found["worst_gain"]) == (0.5, 1, -1)
    assert (found["gain_person"], found["worse_person"]) == (3, 0)
    assert (found["gain_background"], found["worse_background"]) == (-1, 1)
    assert (found["mask_iou"], found["mask_recall"]) == (0.75, 0.5)
    assert (found["no_harm_psnr"], found["no_harm_worst"]) == (50, 40)
    assert "gain_person" not in summary(scores[1:]) and "mask_iou" not in summary(scores[1:])
    with pytest.raises(ValueError, match="blurred"):
        summary(scores[2:])


def test_temporal_error_is_zero_for_a_constant_error_and_grows_with_flicker() -> None:
    truth = [_texture(32, 32, s) // 2 + 40 for s in (0, 1)]
    assert change_error((truth[0] + 9, truth[0]), (truth[1] + 9, truth[1])) == 0
    assert change_error((truth[0] + 9, truth[0]), (truth[1] + 3, truth[1])) == pytest.approx(6)
    assert temporal_summary([4.0, 6.0], [5.0, 2.0]) == {
        "changes": 2, "temporal_blurred": 5.0, "temporal_restored": 3.5, "temporal_worse": 1,
    }  # fmt: skip


def test_harm_is_seen_below_one_code(data: Path) -> None:
    sample = next(iter(read_pairs(data / "pairs")))
    flat = sample._replace(sharp=np.full((112, 160, 3), 99, np.uint8))
    assert measure(_identity(), flat, False, None).harm == 90
    tenth_of_a_code = measure(_loud(0.1 / 255), flat, False, None)
    assert tenth_of_a_code.harm == pytest.approx(20 * np.log10(255 / 0.1), abs=0.1)
    picture = restore(_loud(0.1), flat.sharp).picture
    assert picture.shape == (112, 160, 3) and abs(int(picture[50, 50, 0]) - 99 - 25.5) <= 1


def test_the_mask_is_compared_with_the_true_one(data: Path) -> None:
    _, sample = read_pairs(data / "pairs")
    net = _loud(0.0)
    with torch.no_grad():
        net.encoder.head_out.bias[0] = 20.0  # a person everywhere
    everywhere = measure(net, sample, False, None)
    assert everywhere.common == everywhere.person_pixels and everywhere.either == 112 * 160
    with torch.no_grad():
        net.encoder.head_out.bias[0] = -20.0
    nowhere = measure(net, sample, True, None)
    assert nowhere.common == 0 and nowhere.either == nowhere.person_pixels > 0


def test_details_are_where_the_blur_is() -> None:
    truth = _texture(64, 96)
    blurred = truth.copy()
    blurred[40:50, 70:80] = 255 - truth[40:50, 70:80]
    (x, y, side), (x2, y2, _) = busiest_squares(blurred, truth)
    assert side == 16 and x <= 70 and x + side >= 80 and y <= 40 and y + side >= 50
    assert abs(x - x2) >= side or abs(y - y2) >= side


def test_the_command_prints_every_set_and_writes_sheets(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path(__file__).parents[2] / "engines/nano/weights.safetensors"
    options = ["--pairs", data / "pairs", "--frames", data / "court240", "--davis", data / "davis"]
    arguments = ["evaluate", "--preset", "nano", "--weights", weights, "--device", "cpu", "--sheets", tmp_path]
    monkeypatch.setattr(sys, "argv", [str(a) for a in (*arguments, *options)])
    command.main()
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == ["real_pairs", "averaged_240fps", "averaged_codes", "davis", "temporal_240fps"]
    assert figures["real_pairs"]["pictures"] == 2 and 0 <= figures["real_pairs"]["mask_iou"] <= 1
    assert figures["temporal_240fps"]["changes"] == 2 + 2 + 1 + 1
    sheets = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jpg"))
    assert sheets[:2] == ["averaged_240fps/006-7.jpg", "averaged_240fps/018-9.jpg"]
    assert sheets[2:5] == ["averaged_codes/006-7.jpg", "averaged_codes/018-9.jpg", "davis/disc-00000.jpg"]
    assert sheets[6:] == ["real_pairs/0.jpg", "real_pairs/1.jpg"]
    with Image.open(tmp_path / "real_pairs/1.jpg") as sheet:
        assert sheet.width == 4 * 160 + 3 * 8


def test_an_untrained_network_gains_nothing_and_harms_nothing(data: Path) -> None:
    figures = evaluate(_identity(), pairs=data / "pairs", frames=data / "court240")
    assert figures["real_pairs"]["gain"] == 0 and figures["real_pairs"]["no_harm_psnr"] == 90
    temporal = figures["temporal_240fps"]
    assert temporal["temporal_restored"] == temporal["temporal_blurred"] > 0 and temporal["temporal_worse"] == 0


def test_a_folder_without_pairs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Path(__file__).parents[2] / "engines/nano/weights.safetensors"
    line = ["evaluate", "--preset", "nano", "--weights", weights, "--pairs", tmp_path, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(a) for a in line])
    with pytest.raises(SystemExit, match=r"error: no \*_blur\.webp in"):
        command.main()
