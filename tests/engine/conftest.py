# SPDX-License-Identifier: Apache-2.0
"""An engine folder of an untrained network whose branches do not return zero."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crispstream.export.build import build
from crispstream.manifest import Manifest
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import save_weights


def _made(name: str, folder: Path) -> Manifest:
    torch.manual_seed(0)
    net = HumanAwareNet(preset(name))
    for branch in (net.foreground, net.background):
        torch.nn.init.normal_(branch.out.weight, 0, 0.02)
    save_weights(net, folder / "weights.safetensors")
    return build(preset(name), folder / "weights.safetensors", folder)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Manifest of a nano engine; copy its folder before changing a file."""
    return _made("nano", tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def whole_branches(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Manifest of a small engine, which has no graphs of branches without their last step."""
    return _made("small", tmp_path_factory.mktemp("engine"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are tiny: more threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
