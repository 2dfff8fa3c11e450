# SPDX-License-Identifier: Apache-2.0
"""Real plans, built ahead of time by TensorRT-RTX on a machine that needs no GPU; and what can go wrong meanwhile."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import ModelProto, TensorProto, helper

from crispstream.engine.tensorrt import FEATURES, TENSORS_OF, Library, library
from crispstream.errors import EngineError, OutputError, UsageError
from crispstream.export import network, plans
from crispstream.export.build import build
from crispstream.export.half import half_graph
from crispstream.export.plans import build_plans
from crispstream.export.progress import Display, Phases
from crispstream.export.tensorrt import SMALLEST_WORKSPACE, WORKSPACE, Build, layers_not_half
from crispstream.manifest import PARTS, Manifest, sha256
from crispstream.model.presets import PRESETS, preset
from crispstream.plan import Gpu, Profile, load, plans_folder

rtx = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx is not installed (Linux on x86-64: pip install tensorrt-rtx)"
)

MakeWeights = Callable[..., Path]
TARGETS = ("sm75", "sm86+sm89+sm120")
SIZE = (320, 192)
FIXED = Profile(SIZE, SIZE, SIZE)
RANGE = Profile((160, 96), SIZE, (640, 368))
ONE = [(SIZE, SIZE, SIZE)]


@pytest.fixture(scope="module", params=PRESETS)
def made(
    request: pytest.FixtureRequest, make_weights: MakeWeights, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    return build(preset(request.param), make_weights(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture
def found() -> Library:
    return library("tensorrt-rtx")


def silent() -> Display:
    return Display(io.StringIO(), quiet=True)


def parsed(found: Library, engine: Manifest, part: str) -> network.Network:
    return network.parse(found, half_graph(engine, part), part)


@pytest.mark.parametrize("target", TARGETS)
def test_every_preset_builds(made: Manifest, target: str) -> None:
    report = build_plans(made.folder, ONE, "tensorrt-rtx", target, quiet=True)
    (entry,) = report["plans"]
    plan = load(Path(entry["folder"]))
    assert (plan.preset, plan.flavour, plan.gpu, plan.precision) == (made.preset, "tensorrt-rtx", None, "float16")
    assert plan.capabilities == tuple(target.split("+")) and plan.version == rtx.__version__
    assert plan.weights == made.weights.sha256 and plan.graphs == {p: g.sha256 for p, g in made.graphs.items()}
    for part in PARTS:
        blob = plan.read(part)
        assert entry["parts"][part]["bytes"] == len(blob) > 2 * made.parameters / len(PARTS) / 2
        assert sha256(blob) == plan.parts[part].sha256
    assert {name for name, tensor in plan.tensors.items() if tensor.layout != "LINEAR"} <= set(FEATURES)
    assert {tensor.dtype for tensor in plan.tensors.values()} == {"float16"}


@pytest.mark.parametrize("part", PARTS)
def test_the_parsed_network(made: Manifest, part: str, found: Library) -> None:
    """Walked here once more, apart from ``network.check``: FP16 everywhere, no cast, names and shapes as exported."""
    inside = parsed(found, made, part)
    layers = [inside.network.get_layer(i) for i in range(inside.network.num_layers)]
    kinds = {layer.type for layer in layers}
    kind = rtx.LayerType
    assert kinds <= {kind.CONVOLUTION, kind.ACTIVATION, kind.ELEMENTWISE, kind.RESIZE}
    for layer in layers:
        tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
        tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
        assert {tensor.dtype for tensor in tensors if tensor is not None} == {rtx.DataType.HALF}, layer.name
        if layer.type == kind.CONVOLUTION:
            layer.__class__ = rtx.IConvolutionLayer
            assert layer.kernel.dtype == layer.bias.dtype == "float16" and layer.kernel.size and layer.bias.size
    assert {tensor.name for tensor in inside.tensors} == set(TENSORS_OF[part])
    for tensor in inside.tensors:
        assert list(tensor.shape) == [d if isinstance(d, int) else -1 for d in made.tensors[tensor.name].shape]


@pytest.mark.parametrize("profile", [FIXED, RANGE], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_sizes(made: Manifest, part: str, profile: Profile, found: Library) -> None:
    inside = parsed(found, made, part)
    config = inside.builder.create_builder_config()
    network.set_sizes(inside, config, made, profile)
    assert config.num_optimization_profiles == (not profile.fixed)
    for tensor in inside.tensors:
        sizes = [made.tensors[tensor.name].sizes(*s) for s in (profile.minimum, profile.optimum, profile.maximum)]
        if profile.fixed:
            assert tuple(tensor.shape) == sizes[0]
        else:
            assert -1 in tuple(tensor.shape)


def test_formats(engine: Manifest, found: Library) -> None:
    building = Build(engine, found, ("sm89",), None, silent())
    inside = parsed(found, engine, "encoder")
    network.set_formats(found, inside, building._tensors("HWC8"))
    masks = {tensor.name: tensor.allowed_formats for tensor in inside.tensors}
    linear, blocked = 1 << int(rtx.TensorFormat.LINEAR), 1 << int(rtx.TensorFormat.HWC8)
    assert masks == {"packed": linear, "head": linear, **dict.fromkeys(FEATURES, blocked)}


def spoiled(model: ModelProto, what: str) -> ModelProto:
    """The graph with one thing about it that must not be."""
    graph = model.graph
    convolution = next(node for node in graph.node if node.op_type == "Conv")
    if what == "cast":
        graph.node.insert(0, helper.make_node("Cast", ["packed"], ["full"], "up", to=TensorProto.FLOAT))
        graph.node.insert(1, helper.make_node("Cast", ["full"], ["half"], "down", to=TensorProto.FLOAT16))
        convolution.input[0] = "half"
    elif what == "float32":
        for tensor in graph.initializer:
            if tensor.name in convolution.input:
                tensor.float_data[:] = []
                tensor.raw_data = b"\0" * (2 * len(tensor.raw_data))
                tensor.data_type = TensorProto.FLOAT
        graph.node.insert(0, helper.make_node("Cast", ["packed"], ["full"], "up", to=TensorProto.FLOAT))
        convolution.input[0] = "full"
        output = convolution.output[0]
        convolution.output[0] = "full_out"
        graph.node.insert(2, helper.make_node("Cast", ["full_out"], [output], "down", to=TensorProto.FLOAT16))
    elif what == "name":
        graph.output[-1].name = next(node for node in graph.node if "head" in node.output).output[0] = "mask"
    return model


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("cast", r"layer up \(LayerType.CAST\)"),
        ("float32", r"layer up \(LayerType.CAST\)|/stem/Conv .* has DataType.FLOAT"),
        ("name", "finds the tensors features0, features1, features2, mask, packed in encoder"),
    ],
)
def test_a_network_that_is_not_ours(engine: Manifest, what: str, words: str, found: Library) -> None:
    inside = network.parse(found, spoiled(half_graph(engine, "encoder"), what), "encoder")
    with pytest.raises(EngineError, match=words):
        network.check(found, inside, engine, 8)


def test_a_full_convolution_is_named(engine: Manifest, found: Library) -> None:
    inside = network.parse(found, spoiled(half_graph(engine, "encoder"), "float32"), "encoder")
    layers = [inside.network.get_layer(i) for i in range(inside.network.num_layers)]
    (wrong,) = (layer for layer in layers if layer.name == "/stem/Conv")
    assert "weights of float32" in network._not_half(rtx, wrong) and "DataType.FLOAT" in network._not_half(rtx, wrong)


def test_a_network_of_another_preset(
    make_weights: MakeWeights, engine: Manifest, tmp_path: Path, found: Library
) -> None:
    small = build(preset("small"), make_weights("small"), tmp_path)
    with pytest.raises(EngineError, match=r"finds DataType.HALF \(1, 64, -1, -1\) for features0 in encoder"):
        network.check(found, parsed(found, small, "encoder"), engine, 8)


def test_a_convolution_that_vanished(engine: Manifest, found: Library) -> None:
    with pytest.raises(EngineError, match="finds 9 convolutions in encoder, its graph has 10"):
        network.check(found, parsed(found, engine, "encoder"), engine, 10)


def test_a_graph_that_cannot_be_read(engine: Manifest, found: Library) -> None:
    model = half_graph(engine, "encoder")
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(EngineError, match=r"TensorRT-RTX [\d.]+ cannot read the graph of encoder"):
        network.parse(found, model, "encoder")


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


class FailingBuilder:
    """TensorRT's builder, which fails ``failures`` times with ``message``; notes the workspaces it was given."""

    def __init__(self, found: Library, failures: int, message: str, act: Callable[[], object] = lambda: None) -> None:
        self.left, self.message, self.act = failures, message, act
        self.workspaces: list[int] = []
        outer, real = self, rtx.Builder

        class Builder(real):  # type: ignore[misc, valid-type]
            def build_serialized_network(self, network: Any, config: Any) -> Any:
                outer.workspaces.append(config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE))
                if outer.left:
                    outer.left -= 1
                    outer.act()
                    found.log.log(rtx.ILogger.Severity.ERROR, outer.message)
                    return None
                return super().build_serialized_network(network, config)

        self.trt = SimpleNamespace(**{**vars(rtx), "Builder": Builder})
        self.library = Library("tensorrt-rtx", self.trt, found.log)


def test_out_of_memory_takes_less_workspace(engine: Manifest, found: Library, caplog: pytest.LogCaptureFixture) -> None:
    failing = FailingBuilder(found, 2, "Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)")
    plan, reused = Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)
    assert not reused
    assert failing.workspaces == [WORKSPACE, WORKSPACE // 2, WORKSPACE // 4, WORKSPACE, WORKSPACE]
    assert plan.parts["encoder"].workspace == WORKSPACE // 4
    assert "trying again with a workspace of 1024 MiB" in caplog.text


def test_out_of_memory_for_good(engine: Manifest, found: Library) -> None:
    failing = FailingBuilder(found, 99, "Error Code 2: OutOfMemory (Requested size was 8 bytes.)")
    with pytest.raises(
        EngineError, match="runs out of memory building encoder, with 64 MiB of workspace too"
    ) as caught:
        Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)
    assert failing.workspaces[-1] == SMALLEST_WORKSPACE and "swap" in caught.value.hint
    assert not list(plans_folder().rglob("*sm89*")), "something half-written stays"


def test_workspace_follows_free_memory(engine: Manifest, found: Library) -> None:
    for free, expected in ((1 << 30, 1 << 29), (1 << 20, SMALLEST_WORKSPACE), (1 << 40, WORKSPACE)):
        failing = FailingBuilder(found, 99, "it does not like it")
        with pytest.raises(EngineError):
            Build(engine, failing.library, ("sm89",), free, silent()).run(FIXED)
        assert failing.workspaces[0] == expected


def test_a_format_that_is_refused(engine: Manifest, found: Library, caplog: pytest.LogCaptureFixture) -> None:
    failing = FailingBuilder(found, 1, "no implementation obeys the allowed formats")
    plan, _ = Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)
    assert {tensor.layout for tensor in plan.tensors.values()} == {"LINEAR"}
    assert "cannot keep features in HWC8; building with LINEAR" in caplog.text


def test_a_build_that_fails(engine: Manifest, found: Library) -> None:
    failing = FailingBuilder(found, 2, "no implementation for node /stem/Conv")
    with pytest.raises(EngineError, match=r"cannot build encoder with features in LINEAR: no implementation for node"):
        Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)


def test_stopped_at_the_next_step(engine: Manifest, found: Library) -> None:
    """The monitor's answer stops TensorRT itself."""
    building = Build(engine, found, ("sm89",), None, silent())
    steps: list[float] = []

    def stop(fraction: float) -> None:
        steps.append(fraction)
        if fraction > 0.2:
            building.stop.set()

    building.display.show = stop  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the build was stopped"):
        building.run(FIXED)
    assert 0.2 < max(steps) < 1, "it went on to the end"
    assert not list(plans_folder().rglob("*sm89*")), "something half-written stays"


def test_ctrl_c(engine: Manifest, found: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = FailingBuilder(found, 1, "", act=lambda: (os.kill(os.getpid(), signal.SIGINT), stopped.wait(20)))
    stopped = threading.Event()

    class StoppableBuild(Build):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.stop = stopped

    monkeypatch.setattr(plans, "Build", StoppableBuild)
    monkeypatch.setattr(plans, "library", lambda flavour: failing.library)
    with pytest.raises(KeyboardInterrupt):
        build_plans(engine.folder, ONE, target="sm89", quiet=True)
    assert stopped.is_set() and not list(plans_folder().rglob("*sm89*"))


def test_unwritable_cache(engine: Manifest, found: Library, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    failing = FailingBuilder(found, 0, "")
    with pytest.raises(OutputError, match="cannot write"):
        Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)
    assert failing.workspaces == [], "it built before it knew"


def test_unknown_target(engine: Manifest) -> None:
    with pytest.raises(EngineError, match="does not build for sm87") as caught:
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


def conv(**changes: Any) -> dict[str, Any]:
    half = [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]
    layer = {"Name": "/stem/Conv + /Relu", "LayerType": "CaskConvolution", "ParameterType": "Convolution"}
    return {**layer, "Inputs": half, "Outputs": half, "Weights": {"Type": "Half", "Count": 20736}, **changes}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (conv(), []),
        (conv(Inputs=[{"Name": "x", "Format/Datatype": "Half"}]), []),
        (
            conv(Inputs=[{"Name": "x", "Format/Datatype": "Row major linear FP32"}]),
            ["/stem/Conv + /Relu: Row major linear FP32"],
        ),
        (conv(Outputs=[{"Name": "x", "Format/Datatype": "Float"}]), ["/stem/Conv + /Relu: Float"]),
        (conv(Weights={"Type": "Float", "Count": 9}), ["/stem/Conv + /Relu: weights Float"]),
        (conv(Weights={"Type": "Float", "Count": 0}), []),
        ({"Name": "Resize", "LayerType": "Resize", "Inputs": [{"Format/Datatype": "Float"}]}, []),
        ("/stem/Conv", []),
    ],
)
def test_layers_of_a_finished_plan(layer: Any, wrong: list[str]) -> None:
    assert layers_not_half(json.dumps({"Layers": [layer], "Bindings": ["packed"]})) == wrong


def test_layers_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    assert layers_not_half('{"Layers": [') == [] and "cannot be read" in caplog.text


def test_phases() -> None:
    """Nested phases make one number that only grows."""
    phases, seen = Phases(), []
    phases.start("build", None, 4)
    phases.step("build", 0)
    seen.append(phases.fraction)
    phases.start("optimise", "build", 2)
    phases.step("optimise", 0)
    seen.append(phases.fraction)
    phases.start("tactics", "optimise", 10)
    phases.step("tactics", 4)
    seen.append(phases.fraction)
    phases.finish("tactics")
    phases.finish("optimise")
    phases.step("unknown", 3)
    phases.step("build", 1)
    seen.append(phases.fraction)
    assert seen == [0.25, 0.375, 0.4375, 0.5]


def test_progress_of_a_build(engine: Manifest, found: Library) -> None:
    stream, seen = io.StringIO(), []
    display = Display(stream, quiet=False)
    show = display.show
    display.show = lambda fraction: (seen.append(fraction), show(fraction))  # type: ignore[method-assign]
    with display:
        Build(engine, found, ("sm89",), None, display).run(FIXED)
    assert stream.getvalue().count("100%") == len(PARTS)
    assert "nano 320x192 background" in stream.getvalue()
    assert len(set(seen)) > 20 and seen.count(1.0) >= len(PARTS)


def test_a_plan_is_for_one_gpu(engine: Manifest, found: Library) -> None:
    """The record of a TensorRT build on a GPU, as far as it goes without one."""
    gpu = Gpu("Orin", (8, 7), 8, 12060)
    building = Build(engine, Library("tensorrt", found.trt, found.log), gpu, 1 << 30, silent())
    plan = building._plan(Path("x"), FIXED, "HWC8", {})
    assert (plan.gpu, plan.capabilities, plan.flavour) == (gpu, ("sm87",), "tensorrt")
    assert building._timings.name == f"timings-{found.version}-orin-sm87-8-multiprocessors-driver-for-cuda-12.6-.cache"


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "crispstream")
