# SPDX-License-Identifier: Apache-2.0
"""Measure weights: ``python -m training.evaluate --preset nano --weights FILE --pairs DIR --frames DIR --photos DIR``.

Every gain is a mean over pictures, PSNR in dB against that of the blurred input; pictures are 8-bit when compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from crispstream.metrics import psnr
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import load_network
from training.dataset import PhotoSet, Picture, average_exposure, read_manifest, read_rgb

BORDER = 10


@dataclass(frozen=True, slots=True)
class Score:
    """PSNR in dB of the blurred input and of the restored picture against the truth."""

    blurred: float
    restored: float


def restore(net: HumanAwareNet, picture: Picture) -> Picture:
    """(H, W, 3) RGB through the network, quantised to 8 bits."""
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy()).float().div(255)[None]
    with torch.inference_mode():
        out = net(image).image.clamp(0, 1).mul(255).add(0.5).byte()[0]
    return np.ascontiguousarray(out.numpy().transpose(1, 2, 0))


def align(truth: Picture, blurred: Picture) -> Picture:
    """Shift the truth onto the blurred picture (ECC, translation; Evangelidis and Psarakis, PAMI 2008).

    The sharp frame of a real pair is not always the exact middle of the exposure. Moving the truth rather than the
    results treats input and output alike.
    """
    shift = np.eye(2, 3, dtype=np.float32)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (blurred, truth)]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
    try:
        _, shift = cv2.findTransformECC(grey[0], grey[1], shift, cv2.MOTION_TRANSLATION, stop, None, 5)
    except cv2.error:
        return truth
    size = (truth.shape[1], truth.shape[0])
    moved = cv2.warpAffine(
        truth, shift, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(moved, np.uint8)


def score(net: HumanAwareNet, pairs: Iterable[tuple[Picture, Picture]]) -> list[Score]:
    """Scores of (blurred, sharp) pairs, aligned, without a border of 10 pixels."""
    inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    scores = []
    for blurred, sharp in pairs:
        truth = align(sharp, blurred)[inner]
        scores.append(Score(psnr(blurred[inner], truth), psnr(restore(net, blurred)[inner], truth)))
    return scores


def read_pairs(folder: Path) -> Iterable[tuple[Picture, Picture]]:
    """``NAME_blur.webp`` with ``NAME_sharp.webp``."""
    for path in sorted(folder.glob("*_blur.webp")):
        yield read_rgb(path), read_rgb(path.with_name(path.name.replace("_blur", "_sharp")))


def averaged_pairs(folder: Path, every: int = 12) -> Iterable[tuple[Picture, Picture]]:
    """Means of 7, 9, 11, 13 consecutive 240 fps frames with the middle frame, every ``every`` frames."""
    frames = sorted(folder.glob("*.jpg"))
    for index, middle in enumerate(range(6, len(frames) - 6, every)):
        half = 3 + index % 4
        window = [read_rgb(f) for f in frames[middle - half : middle + half + 1]]
        yield average_exposure(window), window[half]


def photo_figures(net: HumanAwareNet, folder: Path) -> dict[str, float]:
    """On synthesised blur of the validation photographs: gain in and outside the person, mask IoU; and how close the
    output stays to sharp input."""
    photos = PhotoSet(read_manifest(folder, "val"))
    inside, outside, union, common, harm = [], [], 0.0, 0.0, []
    with torch.inference_mode():
        for index in range(12):
            batch = photos.batch(4, 256, 16.0, 8_000_000 + index, torch.device("cpu"))
            output = net(batch.blurry)
            before = (batch.blurry - batch.sharp).square().mean(1, keepdim=True)
            after = (output.image.clamp(0, 1) - batch.sharp).square().mean(1, keepdim=True)
            for region, gains in ((batch.mask, inside), (1 - batch.mask, outside)):
                area = region.sum((1, 2, 3))
                errors = [(e * region).sum((1, 2, 3)) / area.clamp(min=1) for e in (before, after)]
                good = (area > 1000) & (errors[0] > 1e-6)
                gains.append(10 * torch.log10(errors[0][good] / errors[1][good]))
            seen = torch.nn.functional.interpolate(output.head[:, :1], size=256, mode="bilinear") > 0.5
            true = batch.mask > 0.5
            known = batch.mask_known[:, None, None, None]
            common += float((seen & true & known).sum())
            union += float(((seen | true) & known).sum())
            sharp = net(batch.sharp).image.clamp(0, 1)
            harm.append(-10 * torch.log10((sharp - batch.sharp).square().mean((1, 2, 3)).clamp(min=1e-9)))
    return {
        "gain_person": float(torch.cat(inside).mean()),
        "gain_background": float(torch.cat(outside).mean()),
        "mask_iou": common / max(union, 1.0),
        "no_harm_psnr": float(torch.cat(harm).mean()),
    }


def summary(scores: list[Score]) -> dict[str, float]:
    """Means and the number of pictures that got worse."""
    return {
        "pictures": len(scores),
        "psnr_blurred": float(np.mean([s.blurred for s in scores])),
        "psnr_restored": float(np.mean([s.restored for s in scores])),
        "gain": float(np.mean([s.restored - s.blurred for s in scores])),
        "worse": sum(s.restored < s.blurred for s in scores),
    }


def evaluate(net: HumanAwareNet, pairs: Path | None, frames: Path | None, photos: Path | None) -> dict[str, Any]:
    """Figures for every set that is given, rounded to a thousandth."""
    figures: dict[str, dict[str, float]] = {}
    if pairs is not None:
        figures["real_pairs"] = summary(score(net, read_pairs(pairs)))
    if frames is not None:
        figures["averaged_240fps"] = summary(score(net, averaged_pairs(frames)))
    if photos is not None:
        figures["photographs"] = photo_figures(net, photos)
    return {name: {k: round(v, 3) for k, v in values.items()} for name, values in figures.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--weights", type=Path, help="safetensors (default: those shipped with the preset)")
    parser.add_argument("--pairs", type=Path, help="folder of *_blur.webp and *_sharp.webp")
    parser.add_argument("--frames", type=Path, help="folder of consecutive 240 fps frames")
    parser.add_argument("--photos", type=Path, help="folder with manifest.csv")
    arguments = parser.parse_args()
    weights = arguments.weights or Path("engines") / arguments.preset / "weights.safetensors"
    net = load_network(preset(arguments.preset), weights)
    print(json.dumps(evaluate(net, arguments.pairs, arguments.frames, arguments.photos), indent=2))


if __name__ == "__main__":
    main()
