# SPDX-License-Identifier: Apache-2.0
"""Quantised graphs laid out for ONNX Runtime's 8-bit kernels, which want channels last. No value changes.

Three things cost more than the arithmetic where they are left as they are (``docs/int8.md`` has figures): features that
leave a part in FP32 and channels first; nearest upsampling, which ONNX Runtime does element by element in this layout;
and convolutions whose outputs are not whole LANES.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LANES = 16
"""Outputs that a convolution kernel computes at once."""
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Transpositions: channels last, channels first. Between two 8-bit operators ONNX Runtime cancels them."""


def lay_out(model: ModelProto, channels: int) -> None:
    """Change ``model``, as ``quantize_static`` returns it, in place: features are 8-bit codes with channels last,
    upsampling copies rows of them, the residual has ``channels`` of its channels."""
    graph = model.graph
    del graph.value_info[:]
    nodes: list[NodeProto] = []
    for node in graph.node:
        codes = node.op_type == "Resize" and _producer(graph.node, node.input[0]).op_type == "DequantizeLinear"
        nodes += _upsampling(model, node) if codes else [node]
    for value in graph.output:
        if value.name.startswith("features"):
            nodes += _codes_out(nodes, value)
        elif value.name == "residual":
            nodes = _crop(model, nodes, value, channels)
    for value in graph.input:
        if value.name.startswith("features"):
            nodes = _codes_in(nodes, value)
    del graph.node[:]
    graph.node.extend(_used(nodes, {value.name for value in graph.output}))
    onnx.checker.check_model(model, full_check=True)


def _upsampling(model: ModelProto, resize: NodeProto) -> list[NodeProto]:
    """Nearest x2 of the codes, between the DequantizeLinear before ``resize`` and the QuantizeLinear behind it.

    Channels last, x2 is a copy: (1, H, W, C) beside itself is every pixel twice, that beside itself every row twice.
    """
    before = _producer(model.graph.node, resize.input[0])
    after = _consumer(model.graph.node, resize.output[0])
    convolution = _producer(model.graph.node, _producer(model.graph.node, before.input[0]).input[0])
    weight = _producer(model.graph.node, convolution.input[1]).input[0]
    count = next(tensor.dims[0] for tensor in model.graph.initializer if tensor.name == weight)
    name = resize.name
    last, pixels, rows, shape, large = (f"{name}.{what}" for what in ("last", "pixels", "rows", "shape", "large"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1, 0, count], np.int64), shape))
    after.input[0] = ""  # nothing reads the resized values any more: ``_used`` leaves both out
    codes, after.output[0] = after.output[0], f"{name}.unused"
    return [
        helper.make_node("Transpose", [before.input[0]], [last], last, perm=LAST),
        helper.make_node("Concat", [last, last], [pixels], pixels, axis=3),
        helper.make_node("Concat", [pixels, pixels], [rows], rows, axis=2),
        helper.make_node("Reshape", [rows, shape], [large], large),
        helper.make_node("Transpose", [large], [codes], f"{name}.first", perm=FIRST),
    ]


def _codes_out(nodes: list[NodeProto], value: onnx.ValueInfoProto) -> list[NodeProto]:
    """Give out the codes that lie before the DequantizeLinear of ``value``, which stays for readers in the graph."""
    name, inner = value.name, f"{value.name}.float32"
    found = _producer(nodes, name)
    for node in nodes:
        node.input[:] = [inner if one == name else one for one in node.input]
    found.output[0] = inner
    _become_codes(value)
    return [helper.make_node("Transpose", [found.input[0]], [name], f"{name}.last", perm=LAST)]


def _codes_in(nodes: list[NodeProto], value: onnx.ValueInfoProto) -> list[NodeProto]:
    """Take codes in, where ``value`` was quantised."""
    found = _consumer(nodes, value.name)
    taken = helper.make_node("Transpose", [value.name], found.output, f"{value.name}.first", perm=FIRST)
    _become_codes(value)
    return [taken, *(node for node in nodes if node is not found)]


def _become_codes(value: onnx.ValueInfoProto) -> None:
    dimensions = value.type.tensor_type.shape.dim
    sizes = [dimensions[i].dim_param or dimensions[i].dim_value for i in LAST]
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.UINT8, sizes))


def _crop(model: ModelProto, nodes: list[NodeProto], value: onnx.ValueInfoProto, channels: int) -> list[NodeProto]:
    """Leave out what was added to make whole LANES, before ``value`` becomes FP32."""
    last = _producer(nodes, value.name)
    bounds = {f"residual.{what}": number for what, number in (("start", 0), ("end", channels), ("axis", 1))}
    for name, number in bounds.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), name))
    cropped = "residual.codes"
    crop = helper.make_node("Slice", [last.input[0], *bounds], [cropped], cropped)
    last.input[0] = cropped
    value.type.tensor_type.shape.dim[1].dim_value = channels
    at = nodes.index(last)
    return [*nodes[:at], crop, *nodes[at:]]


def _used(nodes: list[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """Those that lead to ``wanted``; ``nodes`` are in the order of execution."""
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _producer(nodes: list[NodeProto], name: str) -> NodeProto:
    return next(node for node in nodes if name in node.output)


def _consumer(nodes: list[NodeProto], name: str) -> NodeProto:
    return next(node for node in nodes if name in node.input)
