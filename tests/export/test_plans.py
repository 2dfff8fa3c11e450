# SPDX-License-Identifier: Apache-2.0
"""``crispstream build``: real plans of every preset by TensorRT-RTX, without a GPU; and what is said when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from failing_builder import SIZE, FailingBuilder

from crispstream.engine.tensorrt import FEATURES, Library
from crispstream.errors import EngineError, UsageError
from crispstream.export import plans
from crispstream.export.plans import build_plans
from crispstream.export.tensorrt import Build
from crispstream.manifest import PARTS, Manifest, sha256
from crispstream.plan import Profile, load, plans_folder

pytestmark = [pytest.mark.usefixtures("found"), pytest.mark.filterwarnings("ignore:Use del obj:DeprecationWarning")]
TARGETS = ("sm75", "sm86+sm89+sm120")
ONE = [(SIZE, SIZE, SIZE)]


@pytest.mark.parametrize("target", TARGETS)
def test_every_preset_builds(made: Manifest, target: str, found: Library) -> None:
    report = build_plans(made.folder, ONE, "tensorrt-rtx", target, quiet=True)
    (entry,) = report["plans"]
    plan = load(Path(entry["folder"]))
    assert (plan.preset, plan.flavour, plan.gpu, plan.precision) == (made.preset, "tensorrt-rtx", None, "float16")
    assert plan.capabilities == tuple(target.split("+")) and plan.version == found.version
    assert plan.weights == made.weights.sha256 and plan.graphs == made.part_hashes
    for part in PARTS:
        blob = plan.read(part)
        assert entry["parts"][part]["bytes"] == len(blob) > 2 * made.parameters / len(PARTS) / 2
        assert sha256(blob) == plan.parts[part].sha256
    assert {name for name, tensor in plan.tensors.items() if tensor.layout != "LINEAR"} <= set(FEATURES)
    assert {tensor.dtype for tensor in plan.tensors.values()} == {"float16"}


def test_built_before(engine: Manifest) -> None:
    first = build_plans(engine.folder, ONE, target="sm89", quiet=True)
    again = build_plans(engine.folder, [*ONE, ((310, 185),) * 3], target="sm89", quiet=True)
    assert not first["plans"][0]["reused"]
    assert [plan["reused"] for plan in again["plans"]] == [True, True], "320x192 is what 310x185 is padded to"
    assert first["plans"][0]["parts"] == again["plans"][0]["parts"]


def test_damaged_plans_are_built_again(engine: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    (first,) = build_plans(engine.folder, ONE, target="sm89", quiet=True)["plans"]
    path = Path(first["folder"]) / first["parts"]["encoder"]["file"]
    path.write_bytes(path.read_bytes()[:1000])
    (second,) = build_plans(engine.folder, ONE, target="sm89", quiet=True)["plans"]
    assert not second["reused"] and "building again: " in caplog.text
    load(Path(second["folder"])).read("encoder")


def test_range_of_sizes(engine: Manifest) -> None:
    (entry,) = build_plans(engine.folder, [((160, 90), (320, 180), (640, 360))], target="sm89", quiet=True)["plans"]
    plan = load(Path(entry["folder"]))
    assert plan.profile == Profile((160, 96), (320, 192), (640, 368)) and not plan.profile.fixed


def test_ctrl_c(engine: Manifest, found: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressed while TensorRT builds and the main thread waits for it."""
    handed_over, stopped = threading.Event(), threading.Event()

    def press() -> None:
        assert handed_over.wait(60)
        for _ in range(6):
            os.kill(os.getpid(), signal.SIGINT)
            # One that comes between Python's last look and its wait shows only with the next.
            if stopped.wait(10):
                return

    class Executor(ThreadPoolExecutor):
        def submit(self, *arguments: Any) -> Future[Any]:  # type: ignore[override]
            future = super().submit(*arguments)
            handed_over.set()
            return future

    failing = FailingBuilder(found, 1, "", act=press)

    class StoppableBuild(Build):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.stop = stopped

    monkeypatch.setattr(plans, "Build", StoppableBuild)
    monkeypatch.setattr(plans, "ThreadPoolExecutor", Executor)
    monkeypatch.setattr(plans, "library", lambda flavour: failing.library)
    with pytest.raises(KeyboardInterrupt):
        build_plans(engine.folder, ONE, target="sm89", quiet=True)
    assert stopped.is_set() and not list(plans_folder().rglob("*sm89*"))


def test_unknown_target(engine: Manifest) -> None:
    with pytest.raises(UsageError, match="does not build for sm87") as caught:
        build_plans(engine.folder, ONE, target="sm87", quiet=True)
    assert "sm89" in caught.value.hint and "sm120" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "ada"}, "'ada' names no GPUs"),
        ({"target": "sm89", "backend": "tensorrt"}, "TensorRT builds on the GPU that the plans are for"),
        ({"device": "cpu"}, "unknown device 'cpu'"),
    ],
)
def test_usage(engine: Manifest, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_plans(engine.folder, ONE, quiet=True, **arguments)
    with pytest.raises(UsageError, match="from the smallest"):
        build_plans(engine.folder, [((640, 360), (320, 180), (640, 360))], target="sm89", quiet=True)


def test_absent_libraries(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=r"TensorRT is not installed.*; TensorRT-RTX is not installed") as caught:
        build_plans(engine.folder, ONE, quiet=True)
    assert "JetPack" in caught.value.hint and "pip install tensorrt-rtx" in caught.value.hint


def test_no_gpu_and_no_target(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    from crispstream.cuda import worker

    def none(index: int) -> None:
        raise EngineError("no NVIDIA driver", "install it")

    monkeypatch.setattr(worker, "Worker", none)
    with pytest.raises(EngineError, match="TensorRT-RTX cannot use a GPU here: no NVIDIA driver") as caught:
        build_plans(engine.folder, ONE, backend="tensorrt-rtx", quiet=True)
    assert caught.value.hint == "install it; or build for a GPU that is elsewhere, as: --target sm89"


class FakeWorker:
    """A worker without a GPU behind it."""

    closed = False

    def __init__(self, device: SimpleNamespace) -> None:
        self.device = device

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def close(self) -> None:
        self.closed = True


def test_gpu_that_rtx_does_not_support(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    from crispstream.cuda import worker

    device = SimpleNamespace(name="NVIDIA H100", compute_capability=(9, 0), multiprocessors=132, driver_version=13000)
    fake = FakeWorker(device)
    monkeypatch.setattr(worker, "Worker", lambda index: fake)
    with pytest.raises(EngineError, match=r"TensorRT-RTX [\d.]+ does not run on NVIDIA H100 \(sm90\)"):
        build_plans(engine.folder, ONE, backend="tensorrt-rtx", quiet=True)
    assert fake.closed


def test_free_memory_of_an_integrated_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8000000 kB\nMemFree:  100 kB\nMemAvailable: 3000000 kB\n")
    monkeypatch.setattr(plans, "MEMORY", tmp_path / "meminfo")
    for integrated, expected in ((True, 3_000_000 << 10), (False, 123)):
        assert plans._free(SimpleNamespace(memory=lambda: (123, 999), integrated=integrated)) == expected


def test_no_timing_cache_of_rtx(engine: Manifest) -> None:
    build_plans(engine.folder, ONE, target="sm89", quiet=True)
    assert not list(plans_folder().glob("timing*"))


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``crispstream build`` where PyTorch is not installed, as on a Jetson."""
    absent = ["torch", "onnxscript", "tensorrt"]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); from crispstream.cli import main; main()"
    command = [sys.executable, "-c", code, "build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command_without_a_gpu_and_without_torch(engine: Manifest) -> None:
    options = ("--backend", "tensorrt-rtx", "--target", "sm89", "--size", "320x180")
    done = run_command(engine.folder, *options, "--json")
    assert done.returncode == 0 and done.stderr == ""
    data = json.loads(done.stdout)
    (entry,) = data["plans"]
    assert (data["preset"], data["target"], entry["size"]) == ("nano", "sm89", "320x192")
    assert load(Path(entry["folder"])).capabilities == ("sm89",)
    again = run_command(engine.folder, *options, "--dynamic", "160x90:320x180:640x360")
    first, second = again.stdout.splitlines()
    assert first == f"320x192 for sm89: built before, {entry['folder']}"
    assert second.startswith("160x96:320x192:640x368 for sm89: built, ") and "nano 160x96" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nano"], 2, "no frame size is given"),
        (["nano", "--dynamic", "640x360"], 2, "'640x360' is not a range of sizes"),
        (["nano", "--size", "wide"], 2, "'wide' is not a frame size"),
        (["gigantic", "--size", "640x360"], 2, "unknown preset 'gigantic'"),
        (["nano", "--size", "640x360", "--backend", "tensorrt"], 5, "TensorRT is not installed"),
    ],
)
def test_command_fails_in_one_line(arguments: list[str], code: int, words: str) -> None:
    done = run_command(*arguments)
    assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1
