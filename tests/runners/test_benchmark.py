# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/gpu.py`` runs and writes its file: on an emulated GPU, since figures are not what is tested here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from emulation.fake_pycuda import Machine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_figure_is_there(
    open_gpu: Callable[..., Machine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_gpu()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    import gpu_kernels

    monkeypatch.setattr(gpu, "SIZES", {"tiny": (64, 48), "no plan": (96, 96)})
    monkeypatch.setattr(gpu, "BACKENDS", ("tensorrt",))
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    monkeypatch.setattr(gpu_kernels, "ROTATED_BYTES", 1)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--frames", "3", "--presets", "nano", "--output", str(tmp_path)])
    assert gpu.main() == 0
    path = Path(capsys.readouterr().out.strip())
    found = json.loads(path.read_text())
    assert path.name == "emulated-gpu.json" and found["card"]["name"] == "Emulated GPU"
    for kernel in ("unpack", "blend"):
        assert found["kernels"]["tiny BGR24"][kernel]["of_copy"] > 0
    tiny, large = found["engines"]
    assert set(tiny["latency_pinned"]) == set(tiny["latency_pageable"]) == {"p50", "p95", "p99", "max"}
    assert tiny["fps"] > 0 and tiny["fps_gated"] > 0 and tiny["non_finite"] == 0
    assert {"graph", "no_graph"} == set(tiny["launch"]) and tiny["launch"]["graph"]["launch_us"] > 0
    assert "crispstream build nano --size 96x96" in large["hint"]
