# SPDX-License-Identifier: Apache-2.0
"""Look at what is trained on: ``python -m training.preview --data DIR --output sheet.png``.

One row a sample: blurred, sharp, person mask, blur gate, motion (hue: its direction, brightness: its extent). The last
rows are real blur, where such frames are there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from training.dataset import HighSpeedSet, PhotoSet, Picture, read_manifest
from training.samples import SOFTNESS
from training.synthesis import Batch

TITLES = ("blurred", "sharp", "person mask", "blur gate", "motion")
TITLE_HEIGHT, GAP = 22, 4
UNKNOWN = 90
"""Grey, crossed out: the label is not known and not learnt from."""


def _codes(x: Tensor) -> Picture:
    # (C, S, S) in [0, 1] -> (S, S, 3) BGR
    pixels = x.expand(3, -1, -1).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[..., ::-1])


def _hues(motion: Tensor) -> Tensor:
    # (DIRECTIONS, S, S) -> RGB (3, S, S): the double angle as hue, so that a direction and its opposite look the same.
    across, aslant = motion[0] - motion[2], motion[1] - motion[3]
    hue = torch.atan2(aslant, across).rad2deg() % 360
    hsv = torch.stack((hue, across.hypot(aslant).clamp(max=1).sqrt(), motion.amax(0)), -1)
    return torch.from_numpy(cv2.cvtColor(hsv.cpu().numpy(), cv2.COLOR_HSV2RGB)).permute(2, 0, 1)


def _label(x: Tensor, known: bool) -> Picture:
    if known:
        return _codes(x)
    size = x.shape[-1]
    crossed = np.full((size, size, 3), UNKNOWN, np.uint8)
    cv2.line(crossed, (0, 0), (size - 1, size - 1), (0, 0, 0), 1, cv2.LINE_AA)
    cv2.line(crossed, (0, size - 1), (size - 1, 0), (0, 0, 0), 1, cv2.LINE_AA)
    return crossed


def contact_sheet(batches: list[Batch]) -> Picture:
    """Batches of crops of one size S -> (H, 5 S + gaps, 3) BGR with a row a sample under a line of titles."""
    size = batches[0].blurry.shape[-1]
    width = len(TITLES) * (size + GAP) - GAP
    head = np.full((TITLE_HEIGHT, width, 3), 255, np.uint8)
    for column, title in enumerate(TITLES):
        place = (column * (size + GAP) + 4, 15)
        cv2.putText(head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    rows = [head]
    upright, level = np.full((size, GAP, 3), 255, np.uint8), np.full((GAP, width, 3), 255, np.uint8)
    for batch in batches:
        for blurry, sharp, mask, gate, motion, mask_known, gate_known in zip(*batch, strict=True):
            known = bool(gate_known)
            cells = [_codes(blurry), _codes(sharp), _label(mask, bool(mask_known))]
            cells += [_label(gate, known), _label(_hues(motion), known)]
            rows += [np.hstack([part for cell in cells for part in (cell, upright)][:-1]), level]
    return np.vstack(rows[:-1])


def samples(data: Path, count: int, size: int, longest: float, seed: int) -> list[Batch]:
    """``count`` synthesised samples and, where there are high-speed frames, two of real blur."""
    device = torch.device("cpu")
    batches = [PhotoSet(read_manifest(data, "train"), SOFTNESS).batch(count, size, longest, seed, device)]
    return batches + [HighSpeedSet(f).batch(2, size, seed, device) for f in sorted(data.glob("*240"))]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder with manifest.csv (runs/data)")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--size", type=int, default=160, help="pixels, a multiple of 16")
    parser.add_argument("--longest", type=float, default=20.0, help="longest blur in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        sheet = contact_sheet(
            samples(arguments.data, arguments.count, arguments.size, arguments.longest, arguments.seed)
        )
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    if not cv2.imwrite(str(arguments.output), sheet):
        sys.exit(f"error: cannot write {arguments.output}")


if __name__ == "__main__":
    main()
