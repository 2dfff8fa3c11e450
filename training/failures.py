# SPDX-License-Identifier: Apache-2.0
"""Where a preset fails, on scenes that we draw: ``python -m training.failures --preset nano``.

Writes a sheet for the model card: one row a case, blurred, restored and true with PSNR; prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from crispstream.blur import to_linear, to_srgb
from crispstream.errors import CrispStreamError
from crispstream.metrics import psnr
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import load_network
from crispstream.sheet import before_after
from training.dataset import Picture
from training.evaluate import restore

HEIGHT, WIDTH, MARGIN = 192, 320, 32
NOISE = 0.06
"""Standard deviation of the noisy case, of sRGB codes in [0, 1]."""
Light = npt.NDArray[np.float32]


def street(seed: int = 0) -> Picture:
    """(H, W, 3), the margin included: letters, discs and edges of many colours on a slope of brightness."""
    rng = np.random.default_rng(seed)
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    slope = np.linspace(70, 190, width, dtype=np.float32)[None, :, None] * np.array([0.9, 1.0, 1.1], np.float32)
    picture = Image.fromarray(np.repeat(slope, height, 0).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y, size = rng.integers(width), rng.integers(height), int(rng.integers(8, 40))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            draw.ellipse((x, y, x + size, y + size), fill=colour)
        else:
            draw.text((x, y), "crisp", fill=colour, font=ImageFont.load_default(size=size))
    return np.asarray(picture)


def checkerboard(period: int = 6) -> Picture:
    """(H, W, 3), the margin included: squares of ``period`` pixels, dark and bright grey."""
    rows, columns = np.indices((HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)) // period
    return np.repeat(np.where((rows + columns) % 2, 220, 40).astype(np.uint8)[..., None], 3, 2)


def moved(picture: Picture, length: float, degrees: float = 20.0) -> Light:
    """Mean exposure in sRGB codes [0, 1] of a picture that moves ``length`` pixels along a line."""
    linear = _linear(picture)
    steps = np.linspace(-length / 2, length / 2, 2 * int(length) + 1)
    way = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    maps = [np.float32([[1, 0, step * way[0]], [0, 1, step * way[1]]]) for step in steps]
    size = (picture.shape[1], picture.shape[0])
    return to_srgb(np.mean([cv2.warpAffine(linear, m, size, borderMode=cv2.BORDER_REFLECT) for m in maps], axis=0))


def defocused(picture: Picture, radius: int = 5) -> Light:
    """A lens out of focus: the mean over a disc, in sRGB codes [0, 1]."""
    y, x = np.indices((2 * radius + 1, 2 * radius + 1)) - radius
    disc = (x * x + y * y <= radius * radius).astype(np.float32)
    return to_srgb(cv2.filter2D(_linear(picture), -1, disc / disc.sum()))


def noisy(codes: Light) -> Light:
    """With Gaussian noise of NOISE."""
    return np.asarray(codes + np.random.default_rng(0).normal(0, NOISE, codes.shape), np.float32)


CASES: dict[str, tuple[Callable[[], Picture], Callable[[Picture], Light]]] = {
    "9 px of motion, for comparison": (street, lambda p: moved(p, 9)),
    "30 px of motion": (street, lambda p: moved(p, 30)),
    "regular pattern": (checkerboard, lambda p: moved(p, 9)),
    "9 px of motion under strong noise": (street, lambda p: noisy(moved(p, 9))),
    "out of focus, not moved": (street, defocused),
}


def sheet_of(net: HumanAwareNet) -> tuple[Image.Image, dict[str, dict[str, float]]]:
    """The picture, and PSNR in dB of every case before and after."""
    rows, figures = [], {}
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    for name, (scene, spoil) in CASES.items():
        sharp = scene()
        blurred = (spoil(sharp).clip(0, 1) * 255).round().astype(np.uint8)
        restored = restore(net, blurred).picture
        shown = [np.ascontiguousarray(p[inner]) for p in (blurred, restored, sharp)]
        levels = [psnr(p, shown[2]) for p in shown[:2]]
        figures[name] = {"blurred": round(levels[0], 2), "restored": round(levels[1], 2)}
        titles = (f"{name}: {levels[0]:.2f} dB", f"restored: {levels[1]:.2f} dB", "truth")
        rows.append(np.asarray(before_after(dict(zip(titles, shown, strict=True)))))
    return Image.fromarray(np.concatenate(rows)), figures


def _linear(picture: Picture) -> Light:
    return to_linear(picture.astype(np.float32) / np.float32(255))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--weights", type=Path, help="safetensors (default: those shipped with the preset)")
    parser.add_argument("--output", type=Path, help="picture to write (default: engines/PRESET/failures.png)")
    arguments = parser.parse_args()
    folder = Path("engines") / arguments.preset
    try:
        net = load_network(preset(arguments.preset), arguments.weights or folder / "weights.safetensors")
    except CrispStreamError as error:
        sys.exit(f"error: {error}")
    sheet, figures = sheet_of(net)
    sheet.quantize(128).save(arguments.output or folder / "failures.png", optimize=True)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
