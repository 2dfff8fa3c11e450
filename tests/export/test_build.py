# SPDX-License-Identifier: Apache-2.0
"""The graphs: small, whole, of any size, with one copy of the weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

from crispstream.errors import EngineError, OutputError
from crispstream.export import __main__ as command
from crispstream.export.build import build
from crispstream.export.fused import fused_graph
from crispstream.export.graph import FEATURES
from crispstream.manifest import PARTS, Manifest, graph_names, load
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset

MakeWeights = Callable[..., Path]


def read_graph(engine: Manifest, part: str, *, weights: bool = True) -> ModelProto:
    return onnx.load(engine.path(part), load_external_data=weights)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_exports(name: str, make_weights: MakeWeights, tmp_path: Path) -> None:
    made = build(preset(name), make_weights(name), tmp_path / name, training={"data": "none"})
    assert load(tmp_path / name) == made
    assert made.training == {"data": "none"} and made.quality == {} and made.parity == {}
    assert sum(made.macs_per_pixel.values()) <= preset(name).budget
    files = {f"{graph}.onnx" for graph in graph_names(preset(name))}
    assert {path.name for path in (tmp_path / name).glob("*.onnx")} == files
    for graph in graph_names(preset(name)):
        onnx.checker.check_model(made.path(graph), full_check=True)


def test_parts_are_small_and_share_the_weights(engine: Manifest) -> None:
    """Every initialiser is FP16 bytes of weights.safetensors, each of its tensors is used, none is stored twice."""
    assert sum(engine.path(part).stat().st_size for part in PARTS) < 100_000
    data, tensors = engine.weights_path.read_bytes(), load_file(engine.weights_path)
    seen = set()
    for part in PARTS:
        for initializer in read_graph(engine, part, weights=False).graph.initializer:
            if initializer.name in {f"{name}.ones" for name in FEATURES}:
                assert (numpy_helper.to_array(initializer) == 1).all()
                continue
            where = {entry.key: entry.value for entry in initializer.external_data}
            assert initializer.data_type == TensorProto.FLOAT16 and not initializer.raw_data
            assert where["location"] == "weights.safetensors"
            start = int(where["offset"])
            stored = np.frombuffer(data[start : start + int(where["length"])], np.float16)
            np.testing.assert_array_equal(stored.reshape(initializer.dims), tensors[initializer.name])
            assert initializer.name.startswith(f"{part}.")
            seen.add(initializer.name)
    assert seen == set(tensors)


@pytest.mark.parametrize("part", PARTS)
def test_dimensions_are_named(engine: Manifest, part: str) -> None:
    graph = read_graph(engine, part, weights=False).graph
    found = {value.name: dimensions(value) for value in (*graph.input, *graph.output)}
    assert found == {name: list(engine.tensors[name].shape) for name in found}
    assert set(found) == ({"packed", "head", *FEATURES} if part == "encoder" else {"residual", *FEATURES})


@pytest.mark.parametrize("part", PARTS)
def test_plain_operators_only(engine: Manifest, part: str) -> None:
    """No arithmetic on shapes, and upsampling by constant factors: what keeps engines in their blocked layout."""
    model = read_graph(engine, part)
    operators = [node.op_type for node in model.graph.node]
    guided = engine.preset == "base" and part == "encoder"
    assert operators.count("ConvTranspose") == guided
    assert {*operators} - {"ConvTranspose"} <= {"Cast", "Conv", "Relu", "Add", "Mul", "Sigmoid", "Constant", "Resize"}
    constants = {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"
    }
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert resizes
    for node in resizes:
        np.testing.assert_array_equal(constants[node.input[2]], [1, 1, 2, 2])
    assert next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= 17


def test_half_graphs_are_half_throughout(make_weights: MakeWeights, tmp_path: Path) -> None:
    made = build(preset("nano"), make_weights(), tmp_path, precision="float16")
    assert {tensor.dtype for tensor in made.tensors.values()} == {"float16"}
    for part in PARTS:
        model = onnx.shape_inference.infer_shapes(read_graph(made, part), strict_mode=True, data_prop=True)
        values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert len(convolutions) >= 5
        for node in convolutions:
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
        assert all(kinds[v.name] == TensorProto.FLOAT16 for v in (*model.graph.input, *model.graph.output))
        assert "Cast" not in {node.op_type for node in model.graph.node}


def test_graphs_do_not_depend_on_the_weights(engine: Manifest, make_weights: MakeWeights, tmp_path: Path) -> None:
    def flatten(net: HumanAwareNet) -> None:
        for parameter in net.parameters():
            parameter.zero_()

    again = build(preset("nano"), make_weights(change=flatten), tmp_path)
    assert again.graphs == engine.graphs and again.weights != engine.weights


def test_rebuild_in_place(engine: Manifest, tmp_path: Path) -> None:
    made = build(preset("nano"), engine.weights_path, tmp_path)
    assert build(preset("nano"), made.weights_path, tmp_path) == made


def test_fused_graph_goes_to_the_cache(engine: Manifest, tmp_path: Path) -> None:
    path = fused_graph(engine)
    assert path.parent == tmp_path / "cache" / "crispstream"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    graph = onnx.load(path, load_external_data=False).graph
    assert [value.name for value in graph.output] == ["head", "foreground", "background"]
    assert all(not tensor.external_data for tensor in graph.initializer)


def test_weights_of_another_preset(make_weights: MakeWeights, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not hold the weights of preset 'nano'"):
        build(preset("nano"), make_weights("small"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_with_nan(make_weights: MakeWeights, tmp_path: Path) -> None:
    tensors = load_file(make_weights())
    tensors["encoder.stem.bias"][0] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(EngineError, match=r"encoder\.stem\.bias .* is not finite"):
        build(preset("nano"), tmp_path / "nan.safetensors", tmp_path / "out")


def test_weights_that_are_not_rounded(make_weights: MakeWeights, tmp_path: Path) -> None:
    save_file({k: v.astype(np.float32) for k, v in load_file(make_weights()).items()}, tmp_path / "full.safetensors")
    with pytest.raises(EngineError, match="is F32, not F16"):
        build(preset("nano"), tmp_path / "full.safetensors", tmp_path / "out")


def test_unwritable_output(make_weights: MakeWeights, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        build(preset("nano"), make_weights(), tmp_path / "file" / "out")


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    return command.main()


def test_command(
    make_weights: MakeWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"steps": 1}))
    options = ("--output", tmp_path / "out", "--training", tmp_path / "training.json")
    assert run_command(monkeypatch, "nano", "--weights", make_weights(), *options) == 0
    assert "encoder.onnx" in capsys.readouterr().out
    assert load(tmp_path / "out").training == {"steps": 1}


@pytest.mark.parametrize(
    ("name", "weights", "code", "words"),
    [("gigantic", "none", 2, "unknown preset"), ("nano", "none", 5, "cannot read weights")],
)
def test_command_fails_in_one_line(
    name: str,
    weights: str,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(monkeypatch, name, "--weights", tmp_path / weights, "--output", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
