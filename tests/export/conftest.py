# SPDX-License-Identifier: Apache-2.0
"""Untrained networks whose branches do not return zero, as weights and as an engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from crispstream.engine.tensorrt import Library, library
from crispstream.export.build import build
from crispstream.manifest import Manifest
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import save_weights

MakeWeights = Callable[..., Path]


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> MakeWeights:
    """(preset name, change=None) -> safetensors; ``change`` is called with the network before it is written."""

    def make(name: str = "nano", change: Callable[[HumanAwareNet], object] | None = None) -> Path:
        torch.manual_seed(0)
        net = HumanAwareNet(preset(name))
        with torch.no_grad():
            for branch in (net.foreground, net.background):
                branch.out.weight.normal_(0, 0.02)
            if change is not None:
                change(net)
        path = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
        save_weights(net, path)
        return path

    return make


@pytest.fixture(scope="session")
def engine(make_weights: MakeWeights, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Manifest of a nano engine; copy its folder before changing a file."""
    return build(preset("nano"), make_weights(), tmp_path_factory.mktemp("nano"))


@pytest.fixture(scope="module", params=PRESETS)
def made(
    request: pytest.FixtureRequest, make_weights: MakeWeights, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    """Manifest of an engine, of every preset in turn."""
    return build(preset(request.param), make_weights(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture
def found(caplog: pytest.LogCaptureFixture) -> Library:
    """TensorRT-RTX, which builds without a GPU."""
    caplog.set_level(logging.WARNING, "crispstream")
    reason = "tensorrt-rtx is not installed (Linux on x86-64: pip install tensorrt-rtx)"
    pytest.importorskip("tensorrt_rtx", reason=reason)
    return library("tensorrt-rtx")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are tiny: more threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
