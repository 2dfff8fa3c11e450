# SPDX-License-Identifier: Apache-2.0
"""What weights are measured on: real pairs, means of high-speed frames, photographs and films that we blur."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.color import to_linear, to_srgb
from training.dataset import PhotoSet, Picture, average_exposure, read_manifest, read_rgb
from training.motion import random_affine
from training.synthesis import expose

LONGEST = 16.0
"""Longest synthesised blur in pixels."""
SUBFRAMES = 19
WINDOWS = (7, 9, 11, 13)
"""Frames in a mean of 240 fps video: exposures of 1/34 to 1/18 second."""


class Sample(NamedTuple):
    """``blurred``, ``sharp`` (H, W, 3) RGB; ``person`` (H, W) in [0, 1] the share of the exposure that a pixel shows a
    person, None where nobody knows."""

    name: str
    blurred: Picture
    sharp: Picture
    person: npt.NDArray[np.float32] | None = None


def read_pairs(folder: Path) -> Iterator[Sample]:
    """``NAME_blur.webp`` with ``NAME_sharp.webp`` and, where there is one, ``NAME_mask.png`` (8 bits, 255: person).

    Raises FileNotFoundError when there are none.
    """
    paths = sorted(folder.glob("*_blur.webp"))
    if not paths:
        raise FileNotFoundError(f"no *_blur.webp in {folder}")
    for path in paths:
        name = path.name.removesuffix("_blur.webp")
        mask = folder / f"{name}_mask.png"
        person = _read_mask(mask) if mask.exists() else None
        yield Sample(name, read_rgb(path), read_rgb(folder / f"{name}_sharp.webp"), person)


def averaged_pairs(folder: Path, every: int = 12, gamma: float = 0.0) -> Iterator[Sample]:
    """Means of 7, 9, 11, 13 consecutive 240 fps frames (``*.jpg``) with the middle frame, every ``every`` frames: in
    linear light, or of the codes to the power ``gamma``."""
    frames = _read_frames(folder)
    for index, middle in enumerate(range(6, len(frames) - 6, every)):
        yield _average(frames, middle, WINDOWS[index % 4], gamma)


def averaged_codes(folder: Path) -> Iterator[Sample]:
    """``averaged_pairs`` of the codes themselves, as a film's frames are averaged."""
    return averaged_pairs(folder, gamma=1.0)


def averaged_clip(folder: Path, window: int, step: int) -> Iterator[Sample]:
    """A film: means of ``window`` 240 fps frames (odd) with the middle frame, ``step`` frames apart."""
    frames = _read_frames(folder)
    for middle in range(window // 2, len(frames) - window // 2, step):
        yield _average(frames, middle, window)


def photo_samples(folder: Path) -> Iterator[Sample]:
    """48 crops of the validation photographs, 256 pixels square, blurred by us; the same ones every time."""
    photos = PhotoSet(read_manifest(folder, "val"))
    for index in range(12):
        batch = photos.batch(4, 256, LONGEST, 8_000_000 + index, torch.device("cpu"))
        blurred, sharp = _to_codes(batch.blurry), _to_codes(batch.sharp)
        for i in range(4):
            person = batch.mask[i, 0].numpy() if batch.mask_known[i] else None
            yield Sample(f"photo{4 * index + i:02}", blurred[i], sharp[i], person)


def davis_samples(folder: Path, every: int = 5) -> Iterator[Sample]:
    """Every fifth frame of films with a mask for each (``NAME/frames/*.jpg``, ``NAME/masks/*.png``), blurred by us.

    A square about the masked person as large as the frame allows. Person and background always move, 4 to 16 pixels
    each, and nothing else happens to the picture. Raises FileNotFoundError when there are none.
    """
    paths = sorted(folder.glob("*/frames/*.jpg"))[::every]
    if not paths:
        raise FileNotFoundError(f"no */frames/*.jpg in {folder}")
    margin = 2 * int(LONGEST)
    for index, path in enumerate(paths):
        frame, mask = read_rgb(path), _read_mask(path.parents[1] / "masks" / f"{path.stem}.png")
        size = (min(mask.shape) - margin) // 16 * 16
        side = size + margin
        centre = [int(np.mean(found)) if len(found) else side // 2 for found in np.nonzero(mask > 0.5)]
        top, left = (int(np.clip(c - side // 2, 0, n - side)) for c, n in zip(centre, mask.shape, strict=True))
        window = (slice(top, top + side), slice(left, left + side))
        motion = torch.Generator().manual_seed(9_000_000 + index)
        lengths = LONGEST * (0.25 + 0.75 * torch.rand(2, 1, generator=motion))
        camera, person = (random_affine(1, SUBFRAMES, length, size, motion) for length in lengths)
        photo = torch.from_numpy(frame[window].transpose(2, 0, 1).copy()).float().div(255)[None]
        alpha = torch.from_numpy(mask[window].copy())[None, None]
        mean, soft = expose(to_linear(photo), alpha, camera, person, size)
        middle = (slice(margin // 2, -(margin // 2)), slice(margin // 2, -(margin // 2)))
        sharp = np.ascontiguousarray(frame[window][middle])
        yield Sample(f"{path.parents[1].name}-{path.stem}", _to_codes(to_srgb(mean))[0], sharp, soft[0, 0].numpy())


def _to_codes(images: Tensor) -> Picture:
    codes = images.mul(255).add(0.5).byte().permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(codes)


def _read_mask(path: Path) -> npt.NDArray[np.float32]:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise FileNotFoundError(f"{path} is not a picture")
    return np.asarray(mask, np.float32) / np.float32(255)


def _read_frames(folder: Path) -> list[Path]:
    frames = sorted(folder.glob("*.jpg"))
    if len(frames) <= max(WINDOWS):
        raise FileNotFoundError(f"{folder} holds fewer than {max(WINDOWS) + 1} frames (*.jpg)")
    return frames


def _average(frames: list[Path], middle: int, window: int, gamma: float = 0.0) -> Sample:
    pictures = [read_rgb(f) for f in frames[middle - window // 2 : middle + window // 2 + 1]]
    return Sample(f"{frames[middle].stem}-{window}", average_exposure(pictures, gamma), pictures[window // 2])
