# SPDX-License-Identifier: Apache-2.0
"""Which engine is opened, and what is said when it is not the first."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

from crispstream.cuda.driver import Driver, Gpu
from crispstream.engine import select
from crispstream.engine.select import EngineChoice, open_engine
from crispstream.errors import EngineError, UsageError
from crispstream.manifest import Manifest, sha256


@pytest.fixture
def unloadable(engine: Manifest, tmp_path: Path) -> Path:
    """An engine one of whose graphs fits its hash but is not ONNX; the weights are good."""
    folder = Path(shutil.copytree(engine.folder, tmp_path / "nano"))
    (folder / "foreground_factors.onnx").write_bytes(b"not a graph")
    fields = json.loads((folder / "manifest.json").read_text())
    fields["graphs"]["foreground_factors"]["sha256"] = sha256(b"not a graph")
    (folder / "manifest.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_said", set())


def test_onnxruntime_is_the_default(engine: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    assert open_engine(engine.folder).name == "onnxruntime"
    assert open_engine(str(engine.folder), device="cpu", threads=1).name == "onnxruntime"
    assert not caplog.records


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_pinned(engine: Manifest, backend: str) -> None:
    assert open_engine(engine.folder, backend=backend).name == backend


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver shows a GPU, without the libraries that would use it."""
    gpu = Gpu(0, "NVIDIA Test", (8, 9), 128, False)
    monkeypatch.setattr(select, "probe", lambda: Driver(13000, (gpu,)))
    for library in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_comes_first_and_the_cpu_in_the_end(engine: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    assert open_engine(engine.folder).name == "onnxruntime"
    said = [record.message for record in caplog.records]
    assert len(said) == 3 and all(m.startswith("engine onnxruntime is used, because") for m in said)
    assert "finds no CUDA device" in said[2]


@pytest.mark.usefixtures("one_gpu")
def test_device_cuda_never_falls_to_the_cpu(engine: Manifest) -> None:
    with pytest.raises(EngineError, match="no engine opens nano: "):
        open_engine(engine.folder, "cuda")


def test_no_gpu_no_words(engine: Manifest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU, nobody hears of engines for one."""
    monkeypatch.setattr(select, "probe", lambda: Driver(0, (), "no NVIDIA driver"))
    assert open_engine(engine.folder).name == "onnxruntime"
    assert not caplog.records


def test_the_next_engine_after_one_that_cannot_take_the_frames(
    engine: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    choice = EngineChoice(engine.folder, "cpu")
    assert choice.next().name == "onnxruntime"
    assert choice.next(EngineError("no plan for 64x48")).name == "torch"
    assert "engine torch is used, because no plan for 64x48" in caplog.text
    for reason in ("too slow", "too wide"):
        with pytest.raises(EngineError, match=reason):
            choice.next(EngineError(reason))


def test_next_engine_and_one_reason(unloadable: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert open_engine(unloadable, device="cpu").name == "torch"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name == "crispstream"
    assert "engine torch is used, because ONNX Runtime" in record.message
    assert "foreground_factors.onnx" in record.message


def test_pinned_engine_fails_loudly(unloadable: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot load .*foreground_factors\.onnx"):
        open_engine(unloadable, backend="onnxruntime")


def test_missing_library(engine: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "crispstream.engine.onnxruntime", None)
    assert open_engine(engine.folder).name == "torch"
    assert "onnxruntime cannot be imported" in caplog.text
    with pytest.raises(EngineError, match="onnxruntime cannot be imported") as caught:
        open_engine(engine.folder, backend="onnxruntime")
    assert caught.value.hint == "pip install onnxruntime"


def test_nothing_opens(unloadable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crispstream.engine.torch", None)
    with pytest.raises(EngineError, match=r"no engine opens nano: ONNX Runtime .*; torch cannot be imported"):
        open_engine(unloadable)


@pytest.mark.parametrize(
    ("device", "backend", "threads", "words"),
    [
        ("tpu", "auto", None, "unknown device 'tpu'"),
        ("auto", "magic", None, "unknown engine backend 'magic'"),
        ("cuda:0", "onnxruntime", None, "onnxruntime runs on the CPU, not on cuda:0"),
        ("cpu", "tensorrt", None, "tensorrt runs on a GPU, not on cpu"),
        ("auto", "auto", 0, "0 threads"),
    ],
)
def test_bad_arguments(engine: Manifest, device: str, backend: str, threads: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_engine(engine.folder, device, backend, threads)
