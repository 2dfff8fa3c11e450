# SPDX-License-Identifier: Apache-2.0
"""One array in, one array out: ``python examples/numpy_only.py``."""

import numpy as np

import crispstream


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((picture.astype(float) - truth) ** 2)))


def main() -> None:
    """Blur a mosaic sideways, restore it, say how close it came."""
    rng = np.random.default_rng(0)
    grey, tint = rng.integers(40, 216, (12, 16, 1)), rng.integers(-30, 31, (12, 16, 3))
    mosaic = (grey + tint).repeat(20, 0).repeat(20, 1)
    blurred = np.mean([np.roll(mosaic, d, 1) for d in range(-3, 4)], 0).round().astype(np.uint8)
    with crispstream.Deblurrer("nano") as deblur:
        restored = deblur(blurred)
    print(f"PSNR blurred  {psnr(blurred, mosaic):.2f}")
    print(f"PSNR restored {psnr(restored, mosaic):.2f}")


if __name__ == "__main__":
    main()
