# SPDX-License-Identifier: Apache-2.0
"""One array in, one array out: ``python examples/numpy_only.py``."""

import numpy as np

import crispstream


def main() -> None:
    """Blur a checkerboard sideways, restore it, say how much changed."""
    rows, columns = np.mgrid[:240, :320] // 20
    board = np.repeat(((rows + columns) % 2 * 200 + 20)[..., None], 3, 2)
    blurred = np.mean([np.roll(board, d, 1) for d in range(-4, 5)], 0).astype(np.uint8)
    with crispstream.Deblurrer("nano") as deblur:
        restored = deblur(blurred)
    print("mean error before", round(float(np.abs(blurred - board.astype(float)).mean()), 2))
    print("mean error after ", round(float(np.abs(restored - board.astype(float)).mean()), 2))


if __name__ == "__main__":
    main()
