# SPDX-License-Identifier: Apache-2.0
"""A card says what its manifest says, and nothing where that says nothing."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crispstream.manifest import available_presets, load
from training import card

ENGINE = Path(__file__).parents[2] / "engines/nano"


def figures(gain: float) -> dict[str, Any]:
    blurred = 27.0
    return {
        "pictures": 11,
        "psnr_blurred": blurred,
        "psnr_restored": blurred + gain,
        "gain": gain,
        "worse": 2,
        "ssim_blurred": 0.8,
        "ssim_restored": 0.9,
        "gain_person": 0.77,
        "gain_background": 0.33,
        "mask_iou": 0.66,
        "no_harm_psnr": 51.2,
        "no_harm_worst": 44.4,
    }


def test_figures_come_from_the_manifest() -> None:
    quality = {
        "real_pairs": figures(0.41),
        "photographs": figures(1.23),
        "temporal_240fps": {"temporal_blurred": 15.33, "temporal_restored": 14.21},
        "failures": {"fog": {"blurred": 20.0, "restored": 19.5}},
    }
    engine = load(ENGINE)
    text = card.card(replace(engine, quality=quality, training={**engine.training, "remarks": ["Resumed twice."]}))
    assert "| 11 | 27.00 | 27.41 | **+0.41** | 2 | 0.8000 to 0.9000 |" in text
    assert "+0.77 and +0.33 dB" in text and "0.66" in text and "51.2 dB, worst 44.4" in text
    assert "15.33 to 14.21 codes" in text and "| fog | 20.00 dB | 19.50 dB |" in text and "\nResumed twice.\n" in text
    assert card.SETS["davis"] not in text
    assert f"{sum(engine.macs_per_pixel.values()):,.0f} multiply-accumulates" in text


@pytest.mark.parametrize("preset", available_presets())
def test_the_shipped_card_is_the_manifests(preset: str) -> None:
    folder = ENGINE.parent / preset
    assert (folder / "README.md").read_text(encoding="utf-8") == card.card(load(folder))


def test_a_manifest_without_figures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nano"
    shutil.copytree(ENGINE, folder)
    replace(load(folder), quality={}).write()
    monkeypatch.setattr(sys, "argv", ["card", "--preset", "nano", "--engine", str(folder)])
    with pytest.raises(SystemExit, match="lacks 'failures'"):
        card.main()
