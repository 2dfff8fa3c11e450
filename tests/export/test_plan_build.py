# SPDX-License-Identifier: Apache-2.0
"""Building plans with TensorRT-RTX: memory that runs out, formats that are refused, builds that are stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from failing_builder import FIXED, FailingBuilder, silent

from crispstream.engine.tensorrt import Library
from crispstream.errors import EngineError, OutputError
from crispstream.export.tensorrt import SMALLEST_WORKSPACE, WORKSPACE, Build, layers_not_half
from crispstream.manifest import Manifest
from crispstream.plan import Gpu, plans_folder

# A derived builder runs into a method that the library marks as obsolete.
pytestmark = pytest.mark.filterwarnings("ignore:Use del obj:DeprecationWarning")


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


def test_unwritable_cache(engine: Manifest, found: Library, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    failing = FailingBuilder(found, 0, "")
    with pytest.raises(OutputError, match="cannot write"):
        Build(engine, failing.library, ("sm89",), None, silent()).run(FIXED)
    assert failing.workspaces == [], "it built before it knew"


def feature(**fields: str) -> list[dict[str, Any]]:
    """One feature map, as a layer's inputs or outputs; ``fields`` tell its type in one version's way."""
    return [{"Dimensions": [1, 48, 92, 160], **{name.replace("_", "/"): value for name, value in fields.items()}}]


def conv(**changes: Any) -> dict[str, Any]:
    half = feature(Format_Datatype="Channel major FP16 format where channel % 8 == 0")
    layer = {"Name": "/stem/Conv + /Relu", "LayerType": "CaskConvolution", "ParameterType": "Convolution"}
    return {**layer, "Inputs": half, "Outputs": half, "Weights": {"Type": "Half", "Count": 20736}, **changes}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (conv(), []),
        (conv(Inputs=feature(Format_Datatype="Half")), []),
        (conv(Inputs=feature(Format_Datatype="Row major linear FP32")), ["/stem/Conv + /Relu: Row major linear FP32"]),
        (conv(Outputs=feature(Format_Datatype="Float")), ["/stem/Conv + /Relu: Float"]),
        (conv(Inputs=feature(Format_DataType="Half"), Outputs=feature(Format_DataType="Half")), []),
        (conv(Inputs=feature(Format="Row major linear", DataType="Half")), []),
        (conv(Inputs=feature(Format="Linear", DataType="Float")), ["/stem/Conv + /Relu: Linear Float"]),
        (conv(Outputs=feature(Datatype="BFloat16")), ["/stem/Conv + /Relu: BFloat16"]),
        (conv(Weights={"Type": "Float", "Count": 9}), ["/stem/Conv + /Relu: weights Float"]),
        (conv(Weights={"Type": "Float", "Count": 0}), []),
        ({"Name": "Resize", "LayerType": "Resize", "Inputs": [{"Format/Datatype": "Float"}]}, []),
        (conv(Inputs=[{"Dimensions": [1], "Format/Datatype": "Float"}]), []),
        ("/stem/Conv", []),
    ],
)
def test_layers_of_a_finished_plan(layer: Any, wrong: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert layers_not_half(json.dumps({"Layers": [layer], "Bindings": ["packed"]})) == wrong
    assert not caplog.text


@pytest.mark.parametrize(
    "layer", [conv(Inputs=feature(Format="Linear")), conv(Outputs=feature()), conv(Weights={"Count": 9})]
)
def test_layers_that_do_not_say_their_type(layer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Another version's names, perhaps: no reason to refuse a plan."""
    assert layers_not_half(json.dumps({"Layers": [layer]})) == []
    assert "does not say whether these are FP16: /stem/Conv + /Relu: " in caplog.text


def test_layers_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    assert layers_not_half('{"Layers": [') == [] and "cannot be read" in caplog.text


class Timings:
    """A builder's configuration that takes timing caches with ``known`` bytes; None for others, or not set."""

    def __init__(self, *known: bytes, set_too: bool = True) -> None:
        self.known, self.set_too, self.cache = known, set_too, None

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data) if data in self.known else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if not self.set_too and cache.serialize():
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (Timings(b"kept", b""), b"kept"),
        (Timings(b""), b""),
        (Timings(b"kept", b"", set_too=False), b""),
        (Timings(), None),
    ],
    ids=["good", "damaged", "of another version", "no cache at all"],
)
def test_timings_of_the_last_build(engine: Manifest, found: Library, config: Timings, used: bytes | None) -> None:
    gpu = Gpu("Orin", (8, 7), 8, 12060)
    building = Build(engine, Library("tensorrt", found.trt, found.log), gpu, 1 << 30, silent())
    plans_folder().mkdir(parents=True)
    building._timings.write_bytes(b"kept")
    building._use_timings(config)
    assert (config.cache.serialize() if config.cache else None) == used
    building._keep_timings(config)
    assert building._timings.read_bytes() == (b"kept" if used is None else used)


def test_a_plan_is_for_one_gpu(engine: Manifest, found: Library) -> None:
    """The record of a TensorRT build on a GPU, as far as it goes without one."""
    gpu = Gpu("Orin", (8, 7), 8, 12060)
    building = Build(engine, Library("tensorrt", found.trt, found.log), gpu, 1 << 30, silent())
    plan = building._plan(Path("x"), FIXED, "HWC8", {})
    assert (plan.gpu, plan.capabilities, plan.flavour) == (gpu, ("sm87",), "tensorrt")
    assert building._timings.name == f"timings-{found.version}-orin-sm87-8-multiprocessors-driver-for-cuda-12.6-.cache"
