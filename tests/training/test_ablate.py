# SPDX-License-Identifier: Apache-2.0
"""Variants are what they say, cost about the same, and are trained once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training import ablate
from training.normalised import Normalised
from training.variants import VARIANTS, Reparameterised, optimizer, plain, trainable

PLAIN_SUM = sum(preset("nano").macs_per_pixel().values())


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few and small samples, small batches."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SYNTHESISED", "HIGH_SPEED", "HELD_OUT"):
            patch.setattr(ablate, name, 1)
        patch.setattr(ablate, "SIZE", 64)
        patch.setattr(ablate, "HELD_OUT_SIZE", 64)
        patch.setattr(ablate, "LONGEST", 8.0)
        patch.setattr(ablate, "CROP", 32)
        patch.setattr(ablate, "BATCH", 4)
        yield


@pytest.fixture(scope="module")
def cache(data: Path, quick: None, tmp_path_factory: pytest.TempPathFactory) -> ablate.Cache:
    return ablate.samples(data, tmp_path_factory.mktemp("cache") / "new" / "cache.pt")


def session(data: Path, folder: Path, patch: pytest.MonkeyPatch, *more: str) -> list[dict[str, object]]:
    line = ["ablate", "--data", str(data), "--cache", str(folder / "cache.pt"), "--json", str(folder / "runs.json")]
    patch.setattr(sys, "argv", [*line, "--steps", "2", "--no-compile", *more])
    ablate.main()
    return list(json.loads((folder / "runs.json").read_text()))


def used(name: str, seed: int = 0) -> HumanAwareNet:
    """A variant whose statistics and outputs are no longer those of the start."""
    torch.manual_seed(seed)
    net = trainable(VARIANTS[name])
    with torch.no_grad():
        for branch in (net.foreground, net.background):
            branch.out.weight.normal_(0, 0.003)
        for _ in range(3):
            net(torch.rand(4, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_folds_to_bare_convolutions_of_about_the_same_cost(name: str) -> None:
    net, image = used(name), torch.rand(2, 3, 64, 96)
    bare = plain(net)
    assert not any(isinstance(module, Normalised | Reparameterised) for module in bare.modules())
    assert ablate.macs_per_pixel(bare) == pytest.approx(PLAIN_SUM, rel=0.03)
    with torch.inference_mode():
        wanted, found = net(image).image, bare(image).image
    assert float((wanted - image).abs().max()) > 0.01  # there is something to compare
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_variants_differ_where_they_say_so() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        one, mask, gate = (used(name)(image) for name in ("one-branch", "mask-only", "gate-only"))
    assert torch.equal(one.background, one.foreground)
    # A mask of 1/2 everywhere: the restored picture does not depend on which branch is which.
    net = used("gate-only")
    net.foreground, net.background = net.background, net.foreground
    with torch.inference_mode():
        torch.testing.assert_close(net(image).image, gate.image)
    assert not torch.equal(mask.image, image) and 0 < float(mask.head[:, 1].mean()) < 1
    parts = [m for m in trainable(VARIANTS["reparameterised"]).modules() if isinstance(m, Reparameterised)]
    assert len(parts) == 12 and sum(part.identity is not None for part in parts) == 8
    assert not any(isinstance(m, Normalised) for m in trainable(VARIANTS["bare"]).modules())


def test_merging_is_exact_in_double_precision() -> None:
    torch.manual_seed(1)
    for stride, outputs in ((1, 8), (1, 6), (2, 8)):
        whole = Reparameterised(Normalised(torch.nn.Conv2d(8, outputs, 3, stride, 1))).double()
        for _ in range(3):
            whole(torch.randn(4, 8, 16, 16, dtype=torch.float64) * 3 + 1)
        image = torch.randn(2, 8, 15, 17, dtype=torch.float64)
        with torch.no_grad():
            assert (whole.eval()(image) - whole.merged()(image)).abs().max() < 1e-12


def test_batches_are_the_same_for_all_but_the_data_that_is_left_out(cache: ablate.Cache) -> None:
    first, again, other = (ablate.draw(cache, VARIANTS["shipped"], 3, step) for step in (5, 5, 6))
    assert torch.equal(first.blurry, again.blurry) and not torch.equal(first.blurry, other.blurry)
    assert first.blurry.shape == (4, 3, 32, 32) and 0 <= float(first.blurry.min()) <= float(first.blurry.max()) <= 1
    batches = [
        (name, ablate.draw(cache, VARIANTS[name], 3, step)) for step in range(8) for name in ("shipped", "high-speed")
    ]
    # High-speed frames have no labels.
    assert {name for name, batch in batches if not batch.gate_known.all()} == {"high-speed"}
    assert not ablate.draw(cache, VARIANTS["gate-only"], 3, 5).mask_known.any()


def test_adam_takes_the_place_of_muon() -> None:
    torch.manual_seed(0)
    variant = VARIANTS["adam"]
    net = trainable(variant)
    steps = optimizer(net, variant)
    assert not any(group["orthogonal"] for group in steps.param_groups)
    net.encoder.stem.conv.weight.grad = torch.randn(32, 12, 3, 3)
    before = net.encoder.stem.conv.weight.detach().clone()
    steps.step()  # Adam's first step has one length everywhere
    moved = (net.encoder.stem.conv.weight - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, steps.rate * 0.2), rtol=1e-2, atol=1e-5)


def test_runs_that_are_done_are_not_done_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    picture = cv2.imread(str(data / "images/0.png"))
    cv2.imwrite(str(pairs / "a_sharp.webp"), picture)
    cv2.imwrite(str(pairs / "a_blur.webp"), cv2.blur(picture, (9, 1)))
    only = ("--only", "shipped", "gate-only", "--pairs", str(pairs), "--seeds")
    first = session(data, tmp_path, monkeypatch, *only, "0")
    assert [(run["variant"], run["seed"], run["steps"]) for run in first] == [("shipped", 0, 2), ("gate-only", 0, 2)]
    assert set(ablate.FIGURES) <= first[0].keys() and "iou" not in first[1]

    trained: list[tuple[str, int]] = []
    really = ablate.train
    monkeypatch.setattr(
        ablate, "train", lambda v, seed, *rest: trained.append((v.what, seed)) or really(v, seed, *rest)
    )
    second = session(data, tmp_path, monkeypatch, "--only", "shipped", "--seeds", "0", "1")
    assert trained == [("as shipped", 1)]
    assert second[:2] == first and second[2]["gain"] != first[0]["gain"] and "pairs" not in second[2]
    assert "| as shipped | 2 | 7147 |" in capsys.readouterr().out


def test_a_seed_gives_the_same_run(data: Path, cache: ablate.Cache) -> None:
    once, twice, other = (ablate.train(VARIANTS["shipped"], seed, 1, cache, False).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert not torch.equal(once["encoder.down1.weight"], other["encoder.down1.weight"])


def test_the_table_gives_means_and_what_seeds_differ_by() -> None:
    runs = [{"variant": "adam", "macs": 7146.75, "gain": 0.2, "iou": 0.5}]
    runs += [{"variant": "shipped", "macs": 7146.75, "gain": gain, "iou": 0.5} for gain in (0.4, 0.5)]
    assert ablate.table(runs).splitlines()[2:] == [
        "| as shipped | 2 | 7147 | +0.450 ± 0.050 |  |  | 0.500 ± 0.000 |  |",
        "| Adam instead of Muon, its own rate | 1 | 7147 | +0.200 |  |  | 0.500 |  |",
    ]


def test_data_without_high_speed_frames_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ("images", "masks", "manifest.csv"):
        (tmp_path / name).symlink_to(data / name)
    with pytest.raises(FileNotFoundError, match="no folder of high-speed frames"):
        ablate.samples(tmp_path, tmp_path / "cache.pt")
