# SPDX-License-Identifier: Apache-2.0
"""The TensorRT engine on an emulated GPU, with ONNX Runtime inside the plans; and its names in the real library."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from emulation import fake_tensorrt
from emulation.fake_plans import VERSION, store
from emulation.fake_pycuda import FakeGpu, Machine
from emulation.fake_tensorrt import fake_module
from emulation.fixture import EmulatedGpu

import crispstream.engine.tensorrt as module
from crispstream.engine.tensorrt import TensorRtEngine, library, tensor_bytes
from crispstream.errors import EngineError
from crispstream.export.half import half_graph
from crispstream.export.plans import build_plans
from crispstream.manifest import PARTS, Manifest, Tensor, sha256
from crispstream.plan import FILE_NAME, FLAVOURS, FORMATS, Profile

Array = npt.NDArray[np.float16]


class Size(NamedTuple):
    padded_width: int
    padded_height: int


SMALL, LARGE = Size(64, 32), Size(96, 64)
BOTH = Profile(SMALL, SMALL, LARGE)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def start(emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> EmulatedGpu:
    """A machine with the fakes of TensorRT and TensorRT-RTX on it."""

    def begin(*gpus: FakeGpu, **settings: Any) -> Machine:
        machine = emulated_gpu(*gpus, **settings)
        for flavour, version in VERSION.items():
            name = flavour.replace("-", "_")
            monkeypatch.setitem(sys.modules, name, fake_module(machine, name, version))
        return machine

    return begin


@pytest.fixture
def opened(engine: Manifest) -> Iterator[Callable[..., TensorRtEngine]]:
    """``TensorRtEngine`` for the nano engine, closed in the end."""
    made: list[TensorRtEngine] = []

    def make(flavour: Any = "tensorrt", device: str = "cuda") -> TensorRtEngine:
        made.append(TensorRtEngine(engine, device, flavour))
        return made[-1]

    yield make
    for one in made:
        one.close()


def expected(engine: Manifest, packed: Array) -> dict[str, Array]:
    """Head and residuals by ONNX Runtime alone."""
    found = {"packed": packed}
    for part in PARTS:
        graph = half_graph(engine, part).SerializeToString()
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        inputs = {value.name: found[value.name] for value in session.get_inputs()}
        found |= dict(zip(names, session.run(names, inputs), strict=True))
        if part != "encoder":
            found[part] = found.pop("residual")
    return {name: found[name] for name in ("head", "foreground", "background")}


class Lane:
    """Parts of one size with a stream; everything in the worker's thread."""

    def __init__(self, engine: TensorRtEngine, size: Size) -> None:
        self.engine, self.size, self.device = engine, size, engine.worker.device
        self.parts = engine.open_parts(size)
        self.stream = self.device.stream()
        self.graph: Any = None

    def enqueue(self) -> None:
        for part in PARTS:
            self.parts.enqueue(part, self.stream.handle)

    def run(self, packed: Array, record: bool = False) -> dict[str, Array]:
        self.device.copy_in(self.parts.packed, packed, self.stream)
        if record:
            self.graph = self.parts.capture(self.stream.handle, self.enqueue)
        if self.graph:
            self.graph.launch(self.stream.handle)
        else:
            self.enqueue()
        tensors = self.engine.manifest.tensors
        found = {}
        for name in ("head", "foreground", "background"):
            shape = tensors["residual" if name in PARTS else name].sizes(*self.size)
            found[name] = np.empty(shape, np.float16)
            self.device.copy_out(found[name], getattr(self.parts, name), self.stream)
        self.stream.synchronize()
        return found

    def close(self) -> None:
        if self.graph:
            self.graph.close()
        self.parts.close()
        self.parts.close()
        self.stream.close()


def noise(engine: Manifest, size: Size, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(engine.tensors["packed"].sizes(*size)).astype(np.float16)


def same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_parts_compute_the_network(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine], flavour: str, layout: str
) -> None:
    start()
    store(engine, BOTH, flavour, layout)
    found = opened(flavour)
    assert found.name == flavour and found.manifest is engine
    for size in (SMALL, LARGE):
        lane = found.worker.call(Lane, found, size)
        same(found.worker.call(lane.run, noise(engine, size)), expected(engine, noise(engine, size)))
        found.worker.call(lane.close)


def test_capture_and_replay(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start()
    store(engine, BOTH)
    found = opened()
    lane = found.worker.call(Lane, found, SMALL)
    found.worker.call(lane.run, noise(engine, SMALL))
    for seed in (1, 2):
        packed = noise(engine, SMALL, seed)
        same(found.worker.call(lane.run, packed, record=seed == 1), expected(engine, packed))
    found.worker.call(lane.close)


def test_two_engines_on_two_gpus(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    first, second = FakeGpu("First"), FakeGpu("Second", (8, 9), 8)
    start(first, second)
    store(engine, BOTH, built_for=first)
    store(engine, BOTH, built_for=second)
    engines = [opened(device=device) for device in ("cuda", "cuda:1")]
    assert [one.worker.device.name for one in engines] == ["First", "Second"]
    lanes = [one.worker.call(Lane, one, SMALL) for one in engines]
    for one, lane in zip(engines, lanes, strict=True):
        same(one.worker.call(lane.run, noise(engine, SMALL)), expected(engine, noise(engine, SMALL)))
        one.worker.call(lane.close)


def test_close_twice_and_reopen(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start()
    store(engine, BOTH)
    for _ in range(3):
        found = opened()
        lane = found.worker.call(Lane, found, SMALL)
        found.worker.call(lane.close)
        found.close()
        found.close()
        with pytest.raises(EngineError, match="closed"):
            found.open_parts(SMALL)


def test_parts_that_nobody_closed(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    """The fixture finds what the worker's end leaves behind."""
    start()
    store(engine, BOTH)
    found = opened()
    found.worker.call(found.open_parts, SMALL)
    found.close()


def test_no_plan_was_built(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start()
    with pytest.raises(EngineError, match=r"no TensorRT plan of nano on Emulated GPU \(.*\): none was built"):
        opened()


def test_frame_larger_than_the_profile(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]
) -> None:
    start()
    store(engine, BOTH)
    found = opened()
    with pytest.raises(EngineError, match="does not include that size") as caught:
        found.worker.call(found.open_parts, Size(128, 64))
    assert "--size 128x64" in caught.value.hint
    with pytest.raises(EngineError, match="not padded"):
        found.worker.call(found.open_parts, Size(60, 32))


def test_plan_of_another_gpu(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start(FakeGpu("Here"))
    store(engine, BOTH, built_for=FakeGpu("There", (8, 9)))
    with pytest.raises(EngineError, match=r"was built for There \(sm89, .*, here is Here \(sm86"):
        opened()


def test_plan_of_another_version(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start()
    store(engine, BOTH, version="10.2.0")
    with pytest.raises(EngineError, match=r"was built by TensorRT 10\.2\.0, here is TensorRT 10\.3\.0"):
        opened()


def test_tampered_plan_never_reaches_the_library(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    plan = store(engine, BOTH)
    path = plan.folder / plan.parts["background"].file
    path.write_bytes(path.read_bytes()[:-100])
    found = opened()
    given: list[bytes] = []
    real = fake_tensorrt.Runtime.deserialize_cuda_engine

    def note(self: Any, serialized_engine: bytes) -> Any:
        given.append(serialized_engine)
        return real(self, serialized_engine)

    monkeypatch.setattr(fake_tensorrt.Runtime, "deserialize_cuda_engine", note)
    with pytest.raises(EngineError, match=r"background-.*\.plan is damaged"):
        found.worker.call(found.open_parts, SMALL)
    assert [sha256(data) for data in given] == [plan.parts[part].sha256 for part in PARTS[:2]]


def test_plan_that_the_library_refuses(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]
) -> None:
    """Its hash is right, its content is not."""
    start()
    plan = store(engine, BOTH)
    data = plan.read("encoder")[:-100]
    parts = {**plan.parts, "encoder": replace(plan.parts["encoder"], sha256=sha256(data))}
    blobs = {part: data if part == "encoder" else plan.read(part) for part in PARTS}
    replace(plan, parts=parts).write(blobs)
    found = opened()
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 refuses the plan .*encoder-.*: .*the plan is corrupt"):
        found.worker.call(found.open_parts, SMALL)


def test_plan_with_other_formats_than_its_manifest(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]
) -> None:
    start()
    path = store(engine, BOTH).folder / FILE_NAME
    fields = json.loads(path.read_text())
    fields["tensors"]["features1"]["layout"] = "LINEAR"
    path.write_text(json.dumps(fields))
    found = opened()
    with pytest.raises(EngineError, match=r"features1 is .* in the plan of encoder, .* in its manifest"):
        found.worker.call(found.open_parts, SMALL)


def test_out_of_gpu_memory(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start(FakeGpu(memory=100_000))
    store(engine, BOTH, built_for=FakeGpu())
    found = opened()
    with pytest.raises(EngineError, match="GPU memory cannot be had"):
        found.worker.call(found.open_parts, LARGE)


def test_a_part_that_fails(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    store(engine, BOTH)
    found = opened()
    parts = found.worker.call(found.open_parts, SMALL)

    def fail(self: Any, stream_handle: int) -> bool:
        module.library("tensorrt").log.log(fake_tensorrt.Severity.ERROR, "Cuda Runtime (an illegal memory access)")
        return False

    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "execute_async_v3", fail)
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 failed in encoder: Cuda Runtime \(an illegal"):
        found.worker.call(parts.enqueue, "encoder", 0)
    found.worker.call(parts.close)


def test_kernels_of_rtx_are_kept(engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]) -> None:
    start()
    folder = store(engine, BOTH, "tensorrt-rtx").folder
    names = {f"{part}-sm86-13000.kernels" for part in PARTS}
    for accepted in (None, True):
        found = opened("tensorrt-rtx")
        parts = found.worker.call(found.open_parts, SMALL)
        for one in parts._engines.values():
            assert one.config.cache.accepted is accepted
            assert one.config.cuda_graph_strategy == fake_tensorrt.CudaGraphStrategy.DISABLED
            strategies = fake_tensorrt.DynamicShapesKernelSpecializationStrategy
            assert one.config.dynamic_shapes_kernel_specialization_strategy == strategies.EAGER
        del one
        found.worker.call(parts.close)
        found.close()
        assert {file.name for file in folder.glob("*.kernels")} == names


def test_kernels_that_cannot_be_kept(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    folder = store(engine, BOTH, "tensorrt-rtx").folder

    def refuse(self: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    found = opened("tensorrt-rtx")
    found.worker.call(found.worker.call(found.open_parts, SMALL).close)
    assert not list(folder.glob("*.kernels"))


def nothing(self: Any) -> None:
    """What TensorRT-RTX returns where it fails."""


def failure(self: Any) -> bytes:
    raise RuntimeError("CUDA error 700")


@pytest.mark.parametrize("serialize", [nothing, failure])
def test_kernels_that_cannot_be_serialised(
    engine: Manifest,
    start: EmulatedGpu,
    opened: Callable[..., TensorRtEngine],
    monkeypatch: pytest.MonkeyPatch,
    serialize: Callable[[Any], object],
) -> None:
    """Contexts, engines and tensors are freed all the same."""
    machine = start()
    folder = store(engine, BOTH, "tensorrt-rtx").folder
    monkeypatch.setattr(fake_tensorrt.IRuntimeCache, "serialize", serialize)
    found = opened("tensorrt-rtx")
    before = machine.leaks()
    parts = found.worker.call(found.open_parts, SMALL)
    assert len(machine.leaks()) > len(before)
    found.worker.call(parts.close)
    assert machine.leaks() == before
    assert not list(folder.glob("*.kernels"))


def test_gpu_that_rtx_does_not_support(
    engine: Manifest, start: EmulatedGpu, opened: Callable[..., TensorRtEngine]
) -> None:
    start(FakeGpu("NVIDIA H100", (9, 0)))
    with pytest.raises(EngineError, match=r"^TensorRT-RTX 1\.7\.1\.116 does not run on NVIDIA H100 \(sm90\)$"):
        opened("tensorrt-rtx")


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU must not be touched."""
    stub = ModuleType("crispstream.cuda.worker")
    monkeypatch.setitem(sys.modules, "crispstream.cuda.worker", stub)


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("flavour", "name", "hint"),
    [("tensorrt", "tensorrt", "JetPack"), ("tensorrt-rtx", "tensorrt_rtx", "pip install tensorrt-rtx")],
)
def test_absent_library(engine: Manifest, flavour: Any, name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=f"is not installed: no module {name}") as caught:
        TensorRtEngine(engine, "cuda", flavour)
    assert hint in caught.value.hint


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("version", "words"),
    [("10.2.1", "TensorRT 10.2.1 is too old, 10.3 or newer is needed"), (None, "is installed, but does not load")],
)
def test_old_or_empty_library(
    engine: Manifest, version: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = ModuleType("tensorrt")
    if version:
        stub.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", stub)
    with pytest.raises(EngineError, match=words):
        TensorRtEngine(engine, "cuda", "tensorrt")


def test_bytes_of_a_tensor() -> None:
    shape = (1, 12, "height_8", "width_8")
    assert tensor_bytes(Tensor(shape, "float16", "LINEAR"), SMALL) == 12 * 4 * 8 * 2
    assert tensor_bytes(Tensor(shape, "float16", "HWC8"), SMALL) == 16 * 4 * 8 * 2


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_real_plans_on_a_real_gpu(engine: Manifest, opened: Callable[..., TensorRtEngine], flavour: Any) -> None:
    """Built here and now: one size and a range, captured and not. FP16 arithmetic differs from ONNX Runtime's."""
    try:
        sizes = [(SMALL, SMALL, SMALL), (SMALL, SMALL, LARGE)]
        build_plans(engine.folder, sizes, flavour, quiet=True)
    except EngineError as error:
        pytest.skip(str(error))
    found = opened(flavour)
    for size in (SMALL, LARGE):
        lane = found.worker.call(Lane, found, size)
        for record in (False, True):
            result = found.worker.call(lane.run, noise(engine, size), record)
            for name, wanted in expected(engine, noise(engine, size)).items():
                np.testing.assert_allclose(result[name], wanted, rtol=2e-2, atol=2e-2, err_msg=name)
        found.worker.call(lane.close)


# --- The real library: what is used of it is there --------------------------------------------------------------------

SOURCES = [Path(module.__file__), *(Path(module.__file__).parents[3] / "export").glob("*.py")]
KINDS = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
}
"""What variables of these names are, in the runtime. The toolchain's are exercised by real builds."""


@pytest.fixture
def rtx() -> Any:
    reason = "tensorrt-rtx is not installed (Linux on x86-64: pip install tensorrt-rtx)"
    return pytest.importorskip("tensorrt_rtx", reason=reason)


def chains(path: Path) -> Iterator[list[str]]:
    """Every dotted name of a source file, as ["trt", "LayerType", "CAST"]; ``self.library.trt`` counts as ``trt``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            names.insert(0, node.id)
        if "trt" in names:
            names = names[names.index("trt") :]
        if len(names) > 1:
            yield names


def missing(rtx: Any, names: list[str]) -> str:
    """The first name of a chain that the library does not have; "" where it has all, or the chain is not its."""
    if names[0] == "trt":
        found = rtx
    elif names[0] in KINDS:
        found = getattr(rtx, KINDS[names[0]])
    else:
        return ""
    for name in names[1:]:
        if name.startswith("__"):
            return ""
        if not hasattr(found, name):
            return ".".join(names)
        found = getattr(found, name)
        if not isinstance(found, type):  # a method or a value; what comes next is not the library's
            return ""
    return ""


def test_every_name_is_in_the_library(rtx: Any) -> None:
    used = {tuple(names) for path in SOURCES for names in chains(path) if names[0] == "trt"}
    used |= {tuple(names) for names in chains(Path(module.__file__)) if names[0] in KINDS}
    assert len(used) > 35
    assert ("context", "execute_async_v3") in used and ("trt", "TensorIOMode", "INPUT") in used
    assert not [gone for names in used if (gone := missing(rtx, list(names)))]
    for layout in FORMATS:
        assert hasattr(rtx.TensorFormat, layout)


@pytest.mark.parametrize("name", ["trt.LayerTypo", "trt.LayerType.CONVOLVE", "context.execute_async_v4"])
def test_a_wrong_name_is_found(rtx: Any, name: str) -> None:
    assert missing(rtx, name.split(".")) == name


@pytest.mark.parametrize(
    ("fake", "extra"),
    [
        ("Runtime", set()),
        ("ICudaEngine", {"takes", "output_shape", "run"}),
        ("IExecutionContext", set()),
        ("IRuntimeConfig", set()),
        ("IRuntimeCache", set()),
        ("TensorIOMode", set()),
        ("TensorFormat", set()),
        ("DataType", set()),
        ("CudaGraphStrategy", set()),
        ("DynamicShapesKernelSpecializationStrategy", set()),
        ("ComputeCapability", set()),
    ],
)
def test_the_fake_offers_nothing_that_is_not_real(rtx: Any, fake: str, extra: set[str]) -> None:
    kind, real = getattr(fake_tensorrt, fake), getattr(rtx, fake)
    names = {name for name in vars(kind) if not name.startswith("_")} - extra - {"kind", "machine"}
    assert names and not {name for name in names if not hasattr(real, name)}


def test_real_logger_and_library(rtx: Any) -> None:
    found = library("tensorrt-rtx")
    assert str(found) == f"TensorRT-RTX {rtx.__version__}" and library("tensorrt-rtx").log is found.log
    found.log.take()  # of other tests: the library has one logger for good
    found.log.log(rtx.ILogger.Severity.ERROR, "bad")
    found.log.log(rtx.ILogger.Severity.WARNING, "so so")
    failure = found.failure("cannot", "do this")
    assert str(failure) == f"{found} cannot: bad" and failure.hint == "do this"
    assert str(found.failure("cannot")).endswith("it does not say why")
