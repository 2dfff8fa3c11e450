# SPDX-License-Identifier: Apache-2.0
"""A packed folder is small, holds both splits, people first, trains, and is the same every time."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from crispstream.errors import OutputError, UsageError
from training.dataset import HighSpeedSet, PhotoSet, read_manifest
from training.pack import LONGEST, pack
from training.preview import TITLE_HEIGHT, UNKNOWN, contact_sheet, samples

LICENCE = 'CC BY 4.0, "as said"'


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photographs, every second of a person, a tenth for validation, one larger than a packed one may be."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "mask_class", "people", "width", "height", "licence", "split"])
        for index in range(40):
            height, width = (LONGEST + 80, 120) if index == 0 else (120, 96)
            picture = cv2.resize(rng.integers(0, 256, (30, 24, 3), np.uint8), (width, height))
            cv2.imwrite(str(folder / f"images/{index}.jpg"), picture)
            mask = np.zeros((height, width), np.uint8)
            mask[: height // 2] = 255
            if index % 2 == 0:
                cv2.imwrite(str(folder / f"masks/{index}.png"), mask)
            kind = (f"masks/{index}.png", "person", "yes") if index % 2 == 0 else ("", "", "no")
            split = "val" if index % 10 == 3 or index == 4 else "train"
            writer.writerow([f"images/{index}.jpg", *kind, width, height, LICENCE, split])
    return folder


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_everything_fits_a_large_pack(many: Path, tmp_path: Path) -> None:
    rows = pack(many, tmp_path / "all", 10)
    assert len(rows) == 40 and {row["licence"] for row in rows} == {LICENCE}
    photos = read_manifest(tmp_path / "all", "train") + read_manifest(tmp_path / "all", "val")
    assert len(photos) == 40 and sum(photo.is_person for photo in photos) == 20
    large = cv2.imread(str(tmp_path / "all/images/0.webp"))
    mask = cv2.imread(str(tmp_path / "all/masks/0.png"), cv2.IMREAD_GRAYSCALE)
    assert max(large.shape) == LONGEST and mask.shape == large.shape[:2]
    assert set(np.unique(mask)) == {0, 255} and 0.48 < float((mask > 0).mean()) < 0.52
    batch = PhotoSet(photos).batch(2, 32, 4.0, 0, torch.device("cpu"))
    assert batch.blurry.shape == (2, 3, 32, 32)


def test_softness_takes_fine_detail_from_its_share_of_crops_and_nothing_else(many: Path) -> None:
    photos = read_manifest(many, "train")
    softened = 0
    for seed in range(40):
        plain, mask, photo = PhotoSet(photos).crop(32, np.random.default_rng(seed))
        soft, same_mask, same_photo = PhotoSet(photos, softness=0.5).crop(32, np.random.default_rng(seed))
        assert photo == same_photo and np.array_equal(mask, same_mask)
        if not np.array_equal(plain, soft):
            softened += 1
            assert cv2.Laplacian(soft, cv2.CV_32F).std() < cv2.Laplacian(plain, cv2.CV_32F).std()
    assert 8 < softened < 32


def test_a_small_pack_keeps_the_limit_both_splits_and_people_first(many: Path, tmp_path: Path) -> None:
    everything = sum(1 for _ in pack(many, tmp_path / "all", 10)) and total(tmp_path / "all")
    limit = everything * 0.5
    rows = pack(many, tmp_path / "half", limit / 2**20)
    assert 0.8 * limit < total(tmp_path / "half") <= limit
    assert {row["split"] for row in rows} == {"train", "val"}
    people = sum(row["mask_class"] == "person" for row in rows)
    assert len(rows) * 0.6 < people < len(rows), "people first, but not alone"
    pack(many, tmp_path / "again", limit / 2**20)
    names = [p.relative_to(tmp_path / "half") for p in (tmp_path / "half").rglob("*") if p.is_file()]
    assert sorted(names) == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.*"))
    assert all((tmp_path / "half" / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_what_cannot_be_packed_is_said(many: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photograph of each split"):
        pack(many, tmp_path / "tiny", 0.002)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(OutputError, match="not empty"):
        pack(many, tmp_path / "used", 1)


def test_high_speed_frames_come_along_when_asked(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "without", 5)
    assert not (tmp_path / "without/court240").exists()
    pack(data, tmp_path / "with", 5, frames=True)
    assert len(HighSpeedSet(tmp_path / "with/court240").frames) == 40
    with pytest.raises(UsageError, match=r"high-speed frames alone are 0\.[1-9] MiB"):
        pack(data, tmp_path / "small", 0.05, frames=True)
    assert not (tmp_path / "small").exists(), "so that it can be tried again"


def test_the_contact_sheet_shows_samples_and_what_is_unknown(data: Path) -> None:
    batches = samples(data, 3, 48, 6.0, 0)
    sheet = contact_sheet(batches)
    assert sheet.shape == (TITLE_HEIGHT + 5 * (48 + 4) - 4, 5 * (48 + 4) - 4, 3)
    blurred = (batches[0].blurry[0] * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    assert np.array_equal(sheet[TITLE_HEIGHT : TITLE_HEIGHT + 48, :48], blurred)
    for column in (2, 3, 4):
        last = sheet[-48:, column * 52 : column * 52 + 48]
        assert (last[10, 20] == UNKNOWN).all(), "real blur has no labels"
