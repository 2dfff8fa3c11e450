# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/gpu.py`` runs and writes its file: on an emulated GPU, since figures are not what is tested here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from emulation.fake_pycuda import Machine

from crispstream import PixelFormat
from crispstream.cuda.graph import Graph
from crispstream.cuda.worker import Worker

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(open_gpu: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """The benchmark's files by name, on a machine with an emulated GPU; buffers rotate over few bytes."""
    open_gpu()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("gpu_kernels.ROTATED_BYTES", 100_000)
    monkeypatch.setattr("gpu_kernels.REPLAYS", 3)
    monkeypatch.setattr("gpu_engines.WARM_UP", 1)
    return import_module


def test_every_figure_is_there(
    scripts: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu = scripts("gpu")
    monkeypatch.setattr(gpu, "SIZES", {"tiny": (64, 48), "no plan": (96, 96)})
    monkeypatch.setattr(gpu, "BACKENDS", ("tensorrt",))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--frames", "3", "--presets", "nano", "--output", str(tmp_path)])
    assert gpu.main() == 0
    path = Path(capsys.readouterr().out.strip())
    found = json.loads(path.read_text())
    assert path.name == "emulated-gpu.json" and found["card"]["name"] == "Emulated GPU"
    assert found["card"]["copy_gb_per_s"] > 0
    for figures in (found["kernels"]["tiny BGR24"], found["kernels"]["tiny NV12"]):
        assert set(figures) == {"unpack", "blend", "statistics"}
        assert all(figure["of_copy"] > 0 for figure in figures.values())
    tiny, large = found["engines"]
    for mode in (tiny["graph"], tiny["no_graph"]):
        for frames in (mode["pinned"], mode["pageable"], mode["gated"]):
            assert set(frames["latency_ms"]) == {"p50", "p95", "p99", "max"} and frames["fps"] > 0
            assert set(frames["stage_ms"]) == {"copy_in", "gpu", "copy_out"}
            assert frames["frames"] == 3 and frames["non_finite"] == 0
        assert mode["launch_us"] > 0 and mode["gpu_ms"] >= 0
    assert list(tiny["pieces_ms"]) == ["unpack", "encoder", "statistics", "foreground", "background", "blend"]
    assert "crispstream build nano --size 96x96" in large["hint"]


def test_without_the_graph_nothing_is_replayed(
    scripts: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames with the graph are launched, those without are not; gating leaves idle branches out."""
    engines = scripts("gpu_engines")
    monkeypatch.setattr(engines, "WARM_UP", 20)
    launches: list[str] = []
    figures, launch = engines._figures, Graph.launch

    def note(self: Graph, stream: int) -> None:
        launches.append("graph")
        launch(self, stream)

    def count(*arguments: Any, **keywords: Any) -> Any:
        before = len(launches)
        return {**figures(*arguments, **keywords), "launches": len(launches) - before}

    monkeypatch.setattr(Graph, "launch", note)
    monkeypatch.setattr(engines, "_figures", count)
    found = engines.engine_figures("tensorrt", "nano", (64, 48), 0, 3)
    kinds = ("pinned", "pageable", "gated")
    assert [found["graph"][kind]["launches"] for kind in kinds] == [20 + 3 + 3] * 3
    assert [found["no_graph"][kind]["launches"] for kind in kinds] == [0] * 3
    assert found["graph"]["pinned"]["variants"] == found["no_graph"]["pageable"]["variants"] == {"both": 3}
    assert found["graph"]["gated"]["variants"] == found["no_graph"]["gated"]["variants"] == {"none": 3}


def test_every_kernel_rotates_over_enough(
    scripts: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every node of a kernel's graph has tensors of its own until ROTATED_BYTES have been read and written."""
    kernels, device = scripts("gpu_kernels"), scripts("crispstream.kernels.device").DeviceKernels
    nodes: list[tuple[str, int]] = []
    for name, tensor in (("unpack", 4), ("blend", 4), ("statistics", 2)):

        def note(self: Any, *arguments: Any, name: str = name, tensor: int = tensor) -> None:
            nodes.append((name, arguments[tensor]))

        monkeypatch.setattr(device, name, note)
    worker = Worker(0)
    figures = worker.call(kernels.kernel_figures, worker.device, (64, 48), PixelFormat.BGR24)
    worker.close()
    for name, figure in figures.items():
        seen = [address for kernel, address in nodes if kernel == name]
        assert len(set(seen)) * figure["bytes"] >= kernels.ROTATED_BYTES
        recorded = seen[len(set(seen)) :]
        assert len(recorded) >= kernels.NODES and set(recorded) == set(seen)
