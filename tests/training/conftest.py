# SPDX-License-Identifier: Apache-2.0
"""A data folder that the tests draw themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn photographs (four with a person), and 40 frames of a moving pattern. Not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "masks", "court240"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,mask,mask_class,people,split"]
    for index in range(6):
        picture = cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (160, 160), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros((160, 160), np.uint8)
        cv2.circle(mask, (80, 80), 40, 255, -1)
        cv2.imwrite(str(folder / f"images/{index}.png"), picture)
        cv2.imwrite(str(folder / f"masks/{index}.png"), mask)
        person = "person,yes" if index < 4 else ",no"
        name = f"masks/{index}.png" if index < 4 else ""
        rows.append(f"images/{index}.png,{name},{person},{'train' if index % 2 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    pattern = cv2.resize(rng.integers(0, 256, (24, 24, 3), np.uint8), (240, 240), interpolation=cv2.INTER_NEAREST)
    for index in range(40):
        cv2.imwrite(str(folder / f"court240/{index:03}.jpg"), pattern[20:180, index : index + 160])
    return folder
