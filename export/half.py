# SPDX-License-Identifier: Apache-2.0
"""FP16 graphs, made from the FP32 graphs of an engine folder. Needs onnx, not torch."""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from crispstream.errors import EngineError
from crispstream.manifest import Manifest

from .weights import read_weights

BLOCKED = ".blocked"
"""How the names of the identity convolutions end that ``graph.py`` puts into branches for ONNX Runtime."""


def half_graph(engine: Manifest, part: str) -> ModelProto:
    """The graph of ``part`` in FP16 throughout, its weights inside. Raises EngineError where it is not what we export.

    The weights are FP16 in their file already, so nothing is rounded.
    """
    model = onnx.load(engine.path(part), load_external_data=False)
    stored = read_weights(engine.weights_path)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            if tensor.name not in stored:
                raise EngineError(f"{engine.weights_path} does not hold {tensor.name}, which {part} uses")
            tensor.CopyFrom(numpy_helper.from_array(stored[tensor.name].value, tensor.name))
    to_half(model)
    return model


def to_half(model: ModelProto) -> None:
    """Take out, in place, what only FP32 needs: Casts of weights and identity convolutions; all tensors become FP16.

    Raises EngineError where something that is not FP16 remains.
    """
    graph = model.graph
    bypassed = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast" or node.name.endswith(BLOCKED)
    }
    kept = [node for node in graph.node if node.output[0] not in bypassed]
    for node in kept:
        node.input[:] = [bypassed.get(name, name) for name in node.input]
    used = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in ((graph.node, kept), (graph.initializer, weights)):
        del field[:]
        field.extend(values)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    if full := [tensor.name for tensor in weights if tensor.data_type != TensorProto.FLOAT16]:
        raise EngineError(f"{graph.name}: {', '.join(full)} are not FP16")
