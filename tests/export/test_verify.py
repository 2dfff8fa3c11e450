# SPDX-License-Identifier: Apache-2.0
"""Verification finds what is right, and what is wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crispstream.errors import EngineError, InputError
from crispstream.export import verify as module
from crispstream.export.build import build
from crispstream.export.verify import broken_bounds, verify
from crispstream.manifest import Manifest, load
from crispstream.model.presets import preset

MakeWeights = Callable[..., Path]
SIZES = ((33, 17), (16, 16), (64, 48))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HALF_SIZE", (64, 48))
    monkeypatch.setattr(module, "TIMED_SIZE", (64, 48))


@pytest.fixture
def folder(engine: Manifest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine.folder, tmp_path / "engine"))


def test_figures_are_right_and_written(folder: Path) -> None:
    figures = verify(folder, sizes=SIZES, threads=1)
    assert max(figures["float32_error"].values()) <= 2e-4
    assert set(figures["float32_error"]) == {"parts", "fused"}
    assert set(figures["runtime_codes"]) == {"bgr24", "i420"}
    for codes in figures["runtime_codes"].values():
        assert codes["max"] <= 1 and codes["share"] < 1e-2
    half = figures["float16_error"]
    assert 0 < half["graph"] <= 2 * half["plain"]
    assert 0 < figures["largest_activation"]["value"] <= 8192
    assert figures["parts_to_fused_time"] > 0
    manifest = load(folder)
    assert manifest.parity == json.loads(json.dumps(figures))
    assert manifest.parity["weights_sha256"] == manifest.weights.sha256
    assert "noise" in manifest.parity["frames"]


def test_pictures_of_the_user(folder: Path, tmp_path: Path) -> None:
    picture = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    before = (folder / "manifest.json").read_bytes()
    figures = verify(folder, write=False, images=[tmp_path / "mine.png"], sizes=[(16, 16)], threads=1)
    assert "mine.png" in figures["frames"]
    assert (folder / "manifest.json").read_bytes() == before
    (tmp_path / "mine.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"mine\.png"):
        verify(folder, images=[tmp_path / "mine.png"], threads=1)


def test_activations_that_leave_no_room(make_weights: MakeWeights, tmp_path: Path) -> None:
    def lift(net: Any) -> None:
        net.encoder.head_out.bias.fill_(9000.0)

    made = build(preset("nano"), make_weights(change=lift), tmp_path / "engine")
    with pytest.raises(EngineError, match=r"encoder\.head_out: activation .* at most 8.19e\+03"):
        verify(made.folder, sizes=[(16, 16)], threads=1)
    assert load(made.folder).parity == {}


def test_graph_that_computes_something_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crispstream.export import parity

    honest = parity.run_network

    def slightly_off(net: Any, image: torch.Tensor) -> Any:
        output = honest(net, image)
        return output._replace(head=output.head + 3e-4)

    monkeypatch.setattr(parity, "run_network", slightly_off)
    with pytest.raises(EngineError, match=r"parts: error 0.0003\d*, at most 0.0002; fused: error"):
        verify(folder, sizes=[(16, 16)], threads=1)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_every_bound_is_checked(value: float) -> None:
    good: dict[str, Any] = {
        "float32_error": {"parts": 2e-4, "fused": 0.0},
        "runtime_codes": {"bgr24": {"max": 1.0, "share": 0.1}},
        "float16_error": {"plain": 0.1, "graph": 0.2},
        "largest_activation": {"value": 8192.0, "layer": "stem"},
    }
    assert broken_bounds(good) == []
    assert len(broken_bounds({**good, "float32_error": {"parts": value, "fused": value}})) == 2
    assert len(broken_bounds({**good, "float16_error": {"plain": 0.1, "graph": value}})) == 1
    assert len(broken_bounds({**good, "runtime_codes": {"i420": {"max": value + 1, "share": 0}}})) == 1
    assert len(broken_bounds({**good, "largest_activation": {"value": 8192 + value, "layer": "stem"}})) == 1
