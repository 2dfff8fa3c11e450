# SPDX-License-Identifier: Apache-2.0
"""Sharp photographs with person masks, and real frame averages of high-speed video.

A data folder holds ``manifest.csv`` (columns image, mask, mask_class, people, split), ``images/``, ``masks/`` and,
optionally, folders of consecutive high-speed frames (``<name>240/*.jpg``, 240 fps).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.color import linear_light, random_gammas, to_light, to_srgb
from training.motion import DIRECTIONS
from training.synthesis import Batch, synthesise

Picture = npt.NDArray[np.uint8]

SOFTEST = 1.2
"""Pixels, largest standard deviation of what softens crops."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One row of the manifest. ``is_person``: the mask shows a person; ``mask_known``: no unmasked people elsewhere."""

    image: Path
    mask: Path | None
    is_person: bool
    mask_known: bool


def read_manifest(folder: Path, split: str) -> list[Photo]:
    """Photographs of one split whose files are there (a subset will do). Raises FileNotFoundError if none."""
    photos = []
    with (folder / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            mask = folder / row["mask"] if row["mask"] else None
            if row["split"] != split or not (folder / row["image"]).exists() or (mask and not mask.exists()):
                continue
            is_person = row["mask_class"].startswith("person")
            photos.append(Photo(folder / row["image"], mask, is_person, is_person or row["people"] == "no"))
    if not photos:
        raise FileNotFoundError(f"no photographs of split '{split}' under {folder}")
    return photos


def read_rgb(path: Path) -> Picture:
    """(H, W, 3) RGB. Raises FileNotFoundError when the file is not a picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{path} is not a picture")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


class PhotoSet:
    """Random crops of photographs with their moving layer; decoded pictures stay in memory.

    ``softness``: share of the crops that lose their finest detail before anything moves. A sharp video frame has 6 to
    12 dB less of it (above 0.15 cycles a pixel) than a photograph scaled down.
    """

    def __init__(self, photos: list[Photo], softness: float = 0.0) -> None:
        self.photos, self.softness = photos, softness
        self._cache: dict[int, tuple[Picture, Picture]] = {}

    def _load(self, index: int) -> tuple[Picture, Picture]:
        if index not in self._cache:
            photo = self.photos[index]
            image = read_rgb(photo.image)
            mask = np.zeros(image.shape[:2], np.uint8)
            if photo.mask is not None:
                found = cv2.imread(str(photo.mask), cv2.IMREAD_GRAYSCALE)
                if found is None or found.shape != mask.shape:
                    raise FileNotFoundError(f"{photo.mask} is not the mask of {photo.image}")
                mask = np.asarray(found, np.uint8)
            self._cache[index] = (image, mask)
        return self._cache[index]

    def crop(self, size: int, rng: np.random.Generator) -> tuple[Picture, Picture, Photo]:
        """A ``size`` square (size, size, 3) and its mask (size, size), scaled by 0.5 to 1, flipped at random.

        Two thirds of the crops of a masked photograph touch the mask's box.
        """
        index = int(rng.integers(len(self.photos)))
        image, mask = self._load(index)
        height, width = mask.shape
        scale = max(rng.uniform(0.5, 1.0), size / min(height, width))
        side = min(round(size / scale), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        if self.photos[index].mask is not None and rng.random() < 0.67:
            rows, columns = np.nonzero(mask[::8, ::8])
            if len(rows):
                pick = rng.integers(len(rows))
                top = int(np.clip(rows[pick] * 8 - rng.integers(side), 0, height - side))
                left = int(np.clip(columns[pick] * 8 - rng.integers(side), 0, width - side))
        window = (slice(top, top + side), slice(left, left + side))
        way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        cut = np.asarray(cv2.resize(image[window], (size, size), interpolation=way), np.uint8)
        layer = np.asarray(cv2.resize(mask[window], (size, size), interpolation=cv2.INTER_AREA), np.uint8)
        if rng.random() < 0.5:
            cut, layer = cut[:, ::-1], layer[:, ::-1]
        if self.softness and rng.random() < self.softness:
            cut = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(cut), (0, 0), rng.uniform(0.3, SOFTEST)), np.uint8)
        return cut, layer, self.photos[index]

    def batch(self, count: int, size: int, longest: float, seed: int, device: torch.device) -> Batch:
        """``count`` synthesised samples of ``size`` pixels; the same seed gives the same batch."""
        rng = np.random.default_rng(seed)
        margin = 2 * int(np.ceil(longest))
        cuts = [self.crop(size + margin, rng) for _ in range(count)]
        photo = _to_tensor(np.stack([c[0] for c in cuts]), device)
        alpha = torch.from_numpy(np.stack([c[1] for c in cuts])).to(device).float().div(255)[:, None]
        person = torch.tensor([c[2].is_person for c in cuts], device=device)
        known = torch.tensor([c[2].mask_known for c in cuts], device=device)
        return synthesise(photo, alpha, person, known, size, longest, seed)


class HighSpeedSet:
    """Real blur: means of consecutive 240 fps frames; the target is the frame in the middle."""

    def __init__(self, folder: Path) -> None:
        self.frames = sorted(folder.glob("*.jpg"))
        if len(self.frames) < 15:
            raise FileNotFoundError(f"{folder} holds fewer than 15 frames")
        self._cache: dict[int, Picture] = {}

    def _load(self, index: int) -> Picture:
        if index not in self._cache:
            self._cache[index] = read_rgb(self.frames[index])
        return self._cache[index]

    def batch(self, count: int, size: int, seed: int, device: torch.device) -> Batch:
        """``count`` crops, each a mean of 5 to 15 frames, half in linear light, half by other camera curves, or, one in
        eight, a frame as it is: what is sharp enough for a camera must stay. No label is known."""
        rng = np.random.default_rng(seed)
        gammas = random_gammas(count, torch.Generator().manual_seed(seed)).flatten().tolist()
        blurry, sharp = [], []
        for gamma in gammas:
            half = int(rng.integers(2, 8)) if rng.random() < 7 / 8 else 0
            middle = int(rng.integers(half, len(self.frames) - half))
            frame = self._load(middle)
            window = _busiest_window(frame, size, rng)
            cuts = [self._load(i)[window] for i in range(middle - half, middle + half + 1)]
            mean = average_exposure(cuts, gamma)
            target = frame[window]
            if rng.random() < 0.5:
                mean, target = mean[:, ::-1], target[:, ::-1]
            blurry.append(mean)
            sharp.append(target)
        unknown = torch.zeros(count, dtype=torch.bool, device=device)
        nothing = torch.zeros(count, 1, size, size, device=device)
        return Batch(
            _to_tensor(np.stack(blurry), device),
            _to_tensor(np.stack(sharp), device),
            nothing,
            nothing,
            nothing.expand(-1, DIRECTIONS, -1, -1),
            unknown,
            unknown,
        )


def _busiest_window(frame: Picture, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    # Of four random squares the one with most detail: an empty floor teaches nothing.
    best, window = -1.0, (slice(0, size), slice(0, size))
    for _ in range(4):
        top = int(rng.integers(frame.shape[0] - size + 1))
        left = int(rng.integers(frame.shape[1] - size + 1))
        candidate = (slice(top, top + size), slice(left, left + size))
        detail = float(cv2.Laplacian(frame[candidate], cv2.CV_32F).std())
        if detail > best:
            best, window = detail, candidate
    return window


def average_exposure(frames: list[Picture], gamma: float = 0.0) -> Picture:
    """Mean of equal (H, W, 3) sRGB frames as 8-bit codes: in linear light, or of the codes to the power ``gamma``."""
    power = torch.tensor(gamma)
    curve = to_light(torch.arange(256) / 255, power).numpy()
    mean = torch.from_numpy(np.mean([curve[f] for f in frames], axis=0))
    return np.asarray((to_srgb(linear_light(mean, power)) * 255).round().numpy(), np.uint8)


def _to_tensor(pictures: Picture, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device).float().div(255)
