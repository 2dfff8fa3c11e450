# SPDX-License-Identifier: Apache-2.0
"""Measure weights: ``python -m training.evaluate --preset nano --pairs DIR --frames DIR --photos DIR --davis DIR``.

Prints JSON, one object a set. Pictures are 8-bit when compared with the truth; docs/evaluation.md says what each figure
means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from crispstream import manifest
from crispstream.errors import CrispStreamError
from crispstream.metrics import psnr
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import load_network
from training.dataset import Picture
from training.measures import Score, align, change_error, quality, region, summary, temporal_summary
from training.sheets import write_sheet
from training.testsets import (
    Sample,
    averaged_clip,
    averaged_codes,
    averaged_pairs,
    davis_samples,
    photo_samples,
    read_pairs,
)

BORDER = 10
MOST_ALIKE = 90.0
"""Cap in dB of the no-harm figure, so that an untouched picture does not decide a mean."""
CLIPS = {7: 8, 9: 10, 11: 12, 13: 14}
"""Films for the temporal error. Frames of 240 fps in an exposure: from one exposure to the next."""


class Restored(NamedTuple):
    """``picture`` (H, W, 3); ``codes``, the same before rounding; ``mask`` (H, W) in [0, 1], where it sees people."""

    picture: Picture
    codes: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


def restore(net: HumanAwareNet, picture: Picture) -> Restored:
    """(H, W, 3) RGB through the network, on the device where that is."""
    device = next(net.parameters()).device
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy()).to(device).float().div(255)[None]
    with torch.inference_mode():
        output = net(image)
        codes = output.image.clamp(0, 1).mul(255)[0]
        stride = output.foreground.shape[-1] * net.preset.pack // output.head.shape[-1]
        maps = F.interpolate(output.head, scale_factor=float(stride), mode="bilinear", align_corners=False)
    mask = maps[0, 0, : picture.shape[0], : picture.shape[1]].cpu().numpy()
    found = codes.permute(1, 2, 0).cpu().numpy()
    return Restored((found + 0.5).astype(np.uint8), found, mask)


def measure(net: HumanAwareNet, sample: Sample, real: bool, sheet: Path | None) -> Score:
    """Figures of one picture. ``real``: the truth is aligned and a border of 10 pixels cut."""
    out, kept = restore(net, sample.blurred), restore(net, sample.sharp)
    truth = align(sample.sharp, sample.blurred) if real else sample.sharp
    if sheet is not None:
        write_sheet(sheet / f"{sample.name}.jpg", sample.blurred, out.picture, truth, out.mask)
    edge = BORDER if real else 0
    inner = (slice(edge, truth.shape[0] - edge), slice(edge, truth.shape[1] - edge))
    shown = (sample.blurred[inner], out.picture[inner], truth[inner])
    # Before rounding, or a change of less than half a code would count as none.
    harm = min(psnr(kept.codes, sample.sharp), MOST_ALIKE)
    whole = asdict(quality(*shown))
    if sample.person is None:
        return Score(**whole, harm=harm)
    person, mask = sample.person[inner], out.mask[inner]
    seen, true = mask > 0.5, person > 0.5
    return Score(
        **whole,
        harm=harm,
        person=region(*shown, person),
        background=region(*shown, 1 - person),
        common=int((seen & true).sum()),
        either=int((seen | true).sum()),
        person_pixels=int(true.sum()),
    )


def score(net: HumanAwareNet, samples: Iterable[Sample], real: bool = True, sheet: Path | None = None) -> list[Score]:
    """``measure`` for each sample."""
    return [measure(net, sample, real, sheet) for sample in samples]


def temporal(net: HumanAwareNet, folder: Path) -> dict[str, float]:
    """Temporal error over films whose exposures follow one another with a gap of 1/240 second: see ``change_error``."""
    errors: tuple[list[float], list[float]] = ([], [])
    for window, step in CLIPS.items():
        previous: Sample | None = None
        shown: tuple[Picture, ...] = ()
        for sample in averaged_clip(folder, window, step):
            pictures = (sample.blurred, restore(net, sample.blurred).picture)
            if previous is not None:
                for one, before, after in zip(errors, shown, pictures, strict=True):
                    one.append(change_error((before, previous.sharp), (after, sample.sharp)))
            previous, shown = sample, pictures
    return temporal_summary(*errors)


def evaluate(
    net: HumanAwareNet,
    pairs: Path | None = None,
    frames: Path | None = None,
    photos: Path | None = None,
    davis: Path | None = None,
    sheets: Path | None = None,
) -> dict[str, Any]:
    """Figures of every set that is given, rounded to a thousandth; a sheet of every picture into ``sheets``."""
    sets = {
        "real_pairs": (pairs, read_pairs, True),
        "averaged_240fps": (frames, averaged_pairs, True),
        "averaged_codes": (frames, averaged_codes, True),
        "photographs": (photos, photo_samples, False),
        "davis": (davis, davis_samples, False),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, (folder, read, real) in sets.items():
        if folder is not None:
            figures[name] = summary(score(net, read(folder), real, sheets / name if sheets else None))
    if frames is not None:
        figures["temporal_240fps"] = temporal(net, frames)
    return {name: {k: round(v, 4 if "ssim" in k else 3) for k, v in values.items()} for name, values in figures.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--weights", type=Path, help="safetensors (default: those shipped with the preset)")
    parser.add_argument("--pairs", type=Path, help="folder of *_blur.webp and *_sharp.webp, perhaps *_mask.png")
    parser.add_argument("--frames", type=Path, help="folder of consecutive 240 fps frames")
    parser.add_argument("--photos", type=Path, help="folder with manifest.csv")
    parser.add_argument("--davis", type=Path, help="folder of NAME/frames/*.jpg with NAME/masks/*.png")
    parser.add_argument("--sheets", type=Path, help="folder for a before/after/truth JPEG of every picture")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    try:
        print(json.dumps(figures_of(parser.parse_args()), indent=2))
    except (CrispStreamError, FileNotFoundError, ValueError) as error:
        sys.exit("\n".join(filter(None, (f"error: {error}", getattr(error, "hint", "")))))


def figures_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """``evaluate`` as the command line asks for it."""
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = arguments.weights or manifest.load(arguments.preset).weights_path
    net = load_network(preset(arguments.preset), weights).to(device)
    sets = {name: getattr(arguments, name) for name in ("pairs", "frames", "photos", "davis", "sheets")}
    return evaluate(net, **sets)


if __name__ == "__main__":
    main()
