# SPDX-License-Identifier: Apache-2.0
"""A Deblurrer on an emulated GPU whose TensorRT computes the FP16 graphs of ``nano`` with ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from emulation.fake_plans import VERSION, store
from emulation.fake_pycuda import FakeGpu, Machine
from emulation.fake_tensorrt import fake_module
from emulation.fixture import EmulatedGpu
from onnx import ModelProto

from crispstream.manifest import load
from crispstream.plan import Profile

SIZES = ((64, 48), (80, 48))
"""Padded sizes that have plans."""


@pytest.fixture
def open_gpu(
    emulated_gpu: EmulatedGpu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Machine]:
    """Call it for a machine with one GPU, TensorRT, and plans of ``nano`` for SIZES."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start(
        integrated: bool = False, gpus: int = 1, change: Callable[[str, ModelProto], None] | None = None
    ) -> Machine:
        machine = emulated_gpu(*(FakeGpu(integrated=integrated) for _ in range(gpus)))
        monkeypatch.setitem(sys.modules, "tensorrt", fake_module(machine, "tensorrt", VERSION["tensorrt"]))
        for size in SIZES:
            store(load("nano"), Profile(size, size, size), change=change)
        return machine

    return start
