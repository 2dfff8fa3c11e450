# SPDX-License-Identifier: Apache-2.0
"""What is said when the driver or pycuda is missing, too old or not for each other."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from emulation.fake_pycuda import FakeGpu
from emulation.fixture import EmulatedGpu

from crispstream.cuda import driver, libcuda
from crispstream.errors import EngineError

CUDA = Path(driver.__file__).parent
MEMBERS = {
    "Device": ("retain_primary_context",),
    "Context": ("push", "pop", "detach", "synchronize"),
    "Stream": ("synchronize", "wait_for_event"),
    "Event": ("record", "query", "synchronize", "time_since"),
    "DeviceAllocation": ("free", "__int__"),
}
"""What ``cuda/`` asks of pycuda's objects."""


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing() -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(libcuda, "_open", missing)
    for cached in (libcuda.libcuda, driver.probe, driver.load):
        cached.cache_clear()
    yield
    for cached in (libcuda.libcuda, driver.probe, driver.load):
        cached.cache_clear()


@pytest.mark.usefixtures("no_driver")
def test_no_driver() -> None:
    found = driver.probe()
    assert found.version == 0 and not found.gpus and found.problem == "no NVIDIA driver: libcuda.so.1 is not found"
    with pytest.raises(EngineError, match="no NVIDIA driver") as caught:
        driver.load()
    assert "ubuntu-drivers install" in caught.value.hint


def test_what_the_driver_says(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu(FakeGpu("NVIDIA L4", (8, 9), 58), FakeGpu("Orin", (8, 7), 8, integrated=True), driver_version=12040)
    found = driver.probe()
    assert found.version == 12040 and found.problem == ""
    assert found.gpus == (
        driver.Gpu(0, "NVIDIA L4", (8, 9), 58, False),
        driver.Gpu(1, "Orin", (8, 7), 8, True),
    )
    assert driver.probe() is found, "the driver is asked once"
    assert driver.version_text(12040) == "12.4"


@pytest.mark.parametrize(
    ("settings", "problem", "hint"),
    [
        ({"driver_version": 11080}, "too old: CUDA 11.8, at least 12.0", "ubuntu-drivers"),
        ({"start_status": 100}, "sees no GPU", "docker run --gpus all"),
        ({"start_status": 803}, r"does not start: emulated error \(CUDA error 803\)", "restart"),
    ],
)
def test_a_driver_that_cannot_be_used(
    emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], problem: str, hint: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    emulated_gpu(**settings)
    with pytest.raises(EngineError, match=problem) as caught:
        driver.load()
    assert hint in caught.value.hint


def test_hidden_gpus_are_named(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    emulated_gpu().gpus.clear()
    assert driver.probe().problem == "no GPU is visible: CUDA_VISIBLE_DEVICES is '-1'"


def test_a_driver_without_what_is_needed(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated_gpu()
    monkeypatch.setattr(libcuda, "_open", SimpleNamespace)
    assert driver.probe().problem == "the NVIDIA driver is older than CUDA 12.0"


IMPORT_FAILURES = {
    "missing": (ModuleNotFoundError("No module named 'pycuda'", name="pycuda"), "not installed", "docs/gpu.md"),
    "dependency": (ModuleNotFoundError("", name="pytools"), "needs the module pytools", "pip install pytools"),
    "newer CUDA": (
        ImportError("_driver.so: undefined symbol: cuCtxCreate_v4"),
        "built for another CUDA than the driver's 12.6",
        "--no-binary pycuda",
    ),
    "other": (ImportError("numpy.core.multiarray failed to import"), "cannot be imported: numpy", "--no-binary pycuda"),
}


@pytest.mark.parametrize("failure", IMPORT_FAILURES)
def test_pycuda_that_does_not_import(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    error, message, hint = IMPORT_FAILURES[failure]
    emulated_gpu(driver_version=12060)

    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(driver, "import_module", fail)
    with pytest.raises(EngineError, match=message) as caught:
        driver.load()
    assert hint in caught.value.hint


def test_pycuda_for_a_newer_cuda(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu(driver_version=12060, built_for=(13, 0, 0))
    with pytest.raises(EngineError, match=r"built for CUDA 13\.0, the driver has 12\.6") as caught:
        driver.load()
    assert "force-reinstall" in caught.value.hint


@pytest.mark.parametrize("built_for", [(12, 0, 0), (12, 9, 0)])
def test_pycuda_for_the_same_major_or_an_older_one(emulated_gpu: EmulatedGpu, built_for: tuple[int, ...]) -> None:
    """Drivers run what was built for older CUDA, and for any minor version of their own."""
    emulated_gpu(driver_version=12060, built_for=built_for)
    assert driver.load() is sys.modules["pycuda.driver"]


def test_old_pycuda(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated_gpu()
    monkeypatch.setattr(sys.modules["pycuda"], "VERSION", (2021, 1))
    monkeypatch.setattr(sys.modules["pycuda"], "VERSION_TEXT", "2021.1")
    with pytest.raises(EngineError, match=r"pycuda 2021\.1 is too old"):
        driver.load()


def test_asking_the_driver_needs_no_pycuda_and_no_gpu() -> None:
    code = "import sys; from crispstream.cuda.driver import probe; probe(); print('pycuda' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def used_names() -> set[str]:
    """What ``cuda/`` takes from ``pycuda.driver``: "Stream", "event_flags.DISABLE_TIMING"."""
    names = set()
    for path in CUDA.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            chain, inner = [], node
            while isinstance(inner, ast.Attribute):
                chain.append(inner.attr)
                inner = inner.value
            chain.append(inner.id if isinstance(inner, ast.Name) else "")
            chain.reverse()
            for at, part in enumerate(chain[:-1]):
                if part in ("drv", "_drv"):
                    names.add(".".join(chain[at + 1 :]))
    return names


def resolve(module: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        module = getattr(module, part)
    return module


def test_every_name_that_is_used_is_emulated(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    names = used_names()
    assert {"Stream", "mem_alloc", "event_flags.DISABLE_TIMING", "Context.pop"} <= names
    for name in names:
        resolve(sys.modules["pycuda.driver"], name)


def test_what_is_emulated_is_in_pycuda(emulated_gpu: EmulatedGpu) -> None:
    """Names of functions and classes, and of what their objects offer."""
    try:
        real = importlib.import_module("pycuda.driver")
    except ImportError as error:
        pytest.skip(f"pycuda cannot be imported here: {error}")
    emulated_gpu()
    for name in used_names() | {f"{kind}.{member}" for kind, members in MEMBERS.items() for member in members}:
        resolve(real, name)
        if not name.startswith("Device."):  # the emulation's has no class
            resolve(sys.modules["pycuda.driver"], name)
