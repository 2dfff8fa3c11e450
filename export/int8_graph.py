# SPDX-License-Identifier: Apache-2.0
"""INT8 graphs of the parts, made from an engine's FP32 graphs by ONNX Runtime's static quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from crispstream.manifest import PARTS, Manifest

from .half import half_graph
from .int8_layout import LANES, lay_out
from .int8_rounding import Array, neighbourhoods, round_weights

ENCODER, BRANCHES = PARTS[0], PARTS[1:]
CODE = 1 / 255
"""Step of the input: pixels have 8 bits, so that quantising them changes nothing."""
GUIDE = "/guide/"
"""How the names of the guide's nodes begin. It is a twelfth of the arithmetic, and its first convolution is a second
one that reads pixels, which 8 bits hurt."""
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Tells ONNX Runtime that the graph needs no preparation (it is folded already), which it would advise otherwise."""


def quantise(engine: Manifest, packed: Sequence[Array]) -> dict[str, bytes]:
    """The INT8 graph of every part. ``packed``: inputs of the network, (1, 3 s^2, H/s, W/s), any sizes.

    Activations have 8 bits and one range for a tensor, from the smallest to the largest value that ``packed`` leads to;
    weights have 7 bits and a step for each output; a guide stays in FP32. Raises EngineError where the graphs are not
    what we export.
    """
    models = {part: _float_graph(engine, part) for part in PARTS}
    weight = _initializer(models[ENCODER], "encoder.stem.weight")
    rounded, steps = round_weights(numpy_helper.to_array(weight), neighbourhoods(packed))
    weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    # The branches learn their ranges from this encoder: both sides of a boundary then have the same step.
    encoder = _open(models[ENCODER])
    exact: dict[str, list[dict[str, Any]]] = {
        "packed": [{"scale": np.array(CODE, np.float32), "zero_point": np.array(0, np.uint8)}],
        weight.name: [{"scale": step, "zero_point": np.array(0, np.int8)} for step in steps],
    }
    exact[weight.name][0]["axis"] = 0

    def inputs() -> Iterator[dict[str, Array]]:
        for one in packed:
            yield {"packed": one}

    def features() -> Iterator[dict[str, Array]]:
        names = [entry.name for entry in encoder.get_outputs() if entry.name != "head"]
        for one in packed:
            yield dict(zip(names, encoder.run(names, {"packed": one}), strict=True))

    graphs = {ENCODER: _static(models[ENCODER], inputs, exact)}
    graphs |= {part: _static(models[part], features, {}) for part in BRANCHES}
    for model in graphs.values():
        lay_out(model, channels=int(engine.tensors["residual"].shape[1]))
    return {part: model.SerializeToString() for part, model in graphs.items()}


def _float_graph(engine: Manifest, part: str) -> ModelProto:
    """The graph of ``part`` in FP32 with its weights inside; a branch's last convolution has whole LANES of outputs."""
    model = half_graph(engine, part)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        if node.output[0] == "residual":
            for name in node.input[1:]:
                tensor = _initializer(model, name)
                values = numpy_helper.to_array(tensor)
                pad = [(0, -len(values) % LANES)] + [(0, 0)] * (values.ndim - 1)
                tensor.CopyFrom(numpy_helper.from_array(np.pad(values, pad), name))
            channels = next(v for v in model.graph.output if v.name == "residual").type.tensor_type.shape.dim[1]
            channels.dim_value = len(np.pad(values, pad))
    onnx.helper.set_model_props(model, dict([PREPARED]))
    return model


def _static(
    model: ModelProto, feeds: Callable[[], Iterator[dict[str, Array]]], exact: dict[str, list[dict[str, Any]]]
) -> ModelProto:
    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = feeds()

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    with TemporaryDirectory() as folder:
        path, whole = Path(folder) / "int8.onnx", Path(folder) / "float32.onnx"
        onnx.save(model, whole)  # older versions of ONNX Runtime move the weights out of a graph that is handed over
        quantize_static(
            whole,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node if node.name.startswith(GUIDE)],
            extra_options={"TensorQuantOverrides": exact},
        )
        return onnx.load(path)


def _initializer(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def _open(model: ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
