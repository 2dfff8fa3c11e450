# SPDX-License-Identifier: Apache-2.0
"""FP16 graphs: nothing but FP16 in them, and the function of the FP32 graphs they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

from crispstream.errors import EngineError
from crispstream.export.build import build
from crispstream.export.graph import BOUNDARIES
from crispstream.export.half import half_graph, to_half
from crispstream.manifest import PARTS, Manifest, load
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import load_network


@pytest.mark.parametrize("part", PARTS)
def test_half_throughout(made: Manifest, part: str) -> None:
    model = half_graph(made, part)
    onnx.checker.check_model(model, full_check=True)
    operators = {"Conv", "Relu", "Add", "Mul", "Sigmoid", "Constant", "Resize"}
    operators |= {"ConvTranspose"} if part == "encoder" else set()  # a guide is spread by one
    assert {node.op_type for node in model.graph.node} <= operators
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    scales = {node.input[2] for node in inferred.node if node.op_type == "Resize"}  # float by ONNX's definition
    assert {kind for name, kind in kinds.items() if name not in scales} == {TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in inferred.initializer} == {TensorProto.FLOAT16}
    stored = load_file(made.weights_path)
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), stored.pop(tensor.name))
    assert not [name for name in stored if name.startswith(f"{part}.")], "a weight was lost"


def widened(model: ModelProto) -> bytes:
    """The same graph over FP32, with the same weights: what is left to see is its structure."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("part", PARTS)
def test_the_function_is_the_network_s(made: Manifest, part: str) -> None:
    """Rounding aside, which ``verify`` bounds."""
    rng = np.random.default_rng(0)
    inputs, outputs = BOUNDARIES[part]
    arrays = {name: rng.random(made.tensors[name].sizes(64, 32), np.float32) for name in inputs}
    session = ort.InferenceSession(widened(half_graph(made, part)), providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), arrays)
    net: HumanAwareNet = load_network(preset(made.preset), made.weights_path)
    with torch.no_grad():
        expected = net.get_submodule(part)(*(torch.from_numpy(array) for array in arrays.values()))
    for name, value, wanted in zip(outputs, found, expected if part == "encoder" else [expected], strict=True):
        np.testing.assert_allclose(value, wanted.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_one_path_to_half(engine: Manifest, tmp_path: Path) -> None:
    """``build(precision="float16")`` writes the graphs that ``half_graph`` makes."""
    built = build(preset("nano"), engine.weights_path, tmp_path, precision="float16")
    for part in PARTS:
        written = onnx.load(built.path(part))
        for tensor in written.graph.initializer:  # which loading marks
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        assert written.SerializeToString(deterministic=True) == half_graph(engine, part).SerializeToString(
            deterministic=True
        )


def test_weights_that_are_not_the_graph_s(engine: Manifest, tmp_path: Path) -> None:
    made = build(preset("nano"), engine.weights_path, tmp_path)
    save_file({"other": np.zeros(1, np.float16)}, made.weights_path)
    with pytest.raises(EngineError, match=r"does not hold encoder\.stem\.weight, which encoder uses"):
        half_graph(made, "encoder")


def test_a_weight_that_is_not_half(engine: Manifest) -> None:
    model = ModelProto.FromString(half_graph(engine, "encoder").SerializeToString())
    model.graph.initializer[0].data_type = TensorProto.FLOAT
    with pytest.raises(EngineError, match=r"nano_encoder: encoder\.stem\.weight are not FP16"):
        to_half(model)


def test_shipped_graphs_become_half() -> None:
    engine = load("nano")
    assert all(len(half_graph(engine, part).graph.node) > 13 for part in PARTS)
