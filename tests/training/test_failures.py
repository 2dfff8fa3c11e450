# SPDX-License-Identifier: Apache-2.0
"""The sheet of failures says of every case what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import save_weights
from training import failures


def test_a_network_that_does_nothing_gains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_weights(HumanAwareNet(preset("nano")), tmp_path / "w.safetensors")
    arguments = ["--preset", "nano", "--weights", tmp_path / "w.safetensors", "--output", tmp_path / "sheet.png"]
    monkeypatch.setattr(sys, "argv", ["failures", *map(str, arguments)])
    failures.main()
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == list(failures.CASES)
    assert all(case["restored"] == case["blurred"] < 25 for case in figures.values())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 3 * failures.WIDTH + 2 * 8 and sheet.height > len(figures) * failures.HEIGHT


def test_what_is_drawn_is_blurred_as_said() -> None:
    scene = failures.checkerboard(64)
    assert np.allclose(failures.moved(scene, 0) * 255, scene, atol=0.6)
    edge = failures.moved(scene, 20, degrees=0)[10]  # a ramp of 20 pixels about every edge
    changed = np.flatnonzero(np.abs(edge[:, 0] * 255 - scene[10, :, 0]) > 2)
    assert {int(c) // 64 * 64 for c in changed + 32} <= {64, 128, 192, 256, 320, 384} and len(changed) >= 5 * 18


def test_weights_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["failures", "--preset", "nano", "--weights", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="cannot read weights"):
        failures.main()
