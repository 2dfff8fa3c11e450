# SPDX-License-Identifier: Apache-2.0
"""Parts as TensorRT-RTX parses them: FP16 throughout, with the names, shapes, sizes and formats that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from failing_builder import FIXED, SIZE, silent
from onnx import ModelProto, TensorProto, helper

from crispstream.engine.tensorrt import FEATURES, TENSORS_OF, Library
from crispstream.errors import EngineError
from crispstream.export import network
from crispstream.export.build import build
from crispstream.export.half import half_graph
from crispstream.export.tensorrt import Build
from crispstream.manifest import PARTS, Manifest
from crispstream.model.presets import preset
from crispstream.plan import Profile

MakeWeights = Callable[..., Path]
RANGE = Profile((160, 96), SIZE, (640, 368))


def parsed(found: Library, engine: Manifest, part: str) -> network.Network:
    return network.parse(found, half_graph(engine, part), part)


@pytest.mark.parametrize("part", PARTS)
def test_the_parsed_network(made: Manifest, part: str, found: Library) -> None:
    """Walked here once more, apart from ``network.check``: FP16 everywhere, no cast, names and shapes as exported."""
    inside = parsed(found, made, part)
    layers = [inside.network.get_layer(i) for i in range(inside.network.num_layers)]
    kinds = {layer.type for layer in layers}
    kind = found.trt.LayerType
    allowed = {kind.CONVOLUTION, kind.ACTIVATION, kind.ELEMENTWISE, kind.RESIZE}
    fixed = made.preset == "base" and part == "encoder"  # its guide halves the frame and spreads what it finds
    assert kinds == allowed | {kind.DECONVOLUTION} if fixed else kinds <= allowed
    bare = 0
    for layer in layers:
        tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
        tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
        assert {tensor.dtype for tensor in tensors if tensor is not None} == {found.trt.DataType.HALF}, layer.name
        if layer.type == kind.CONVOLUTION:
            layer.__class__ = found.trt.IConvolutionLayer
            assert layer.kernel.dtype == "float16" and layer.kernel.size
            assert layer.bias.dtype == "float16" or not layer.bias.size
            bare += not layer.bias.size
    assert bare == fixed
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
    linear, blocked = 1 << int(found.trt.TensorFormat.LINEAR), 1 << int(found.trt.TensorFormat.HWC8)
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
    assert "weights of float32" in network._not_half(found.trt, wrong) and "DataType.FLOAT" in network._not_half(
        found.trt, wrong
    )


def test_a_network_of_another_preset(
    make_weights: MakeWeights, engine: Manifest, tmp_path: Path, found: Library
) -> None:
    wider = replace(engine.tensors["features0"], shape=(1, 64, "height_2", "width_2"))
    other = replace(engine, tensors={**engine.tensors, "features0": wider})
    with pytest.raises(EngineError, match=r"finds DataType.HALF \(1, 32, -1, -1\) for features0 in encoder"):
        network.check(found, parsed(found, engine, "encoder"), other, 8)
    small = build(preset("small"), make_weights("small"), tmp_path / "small")  # with tensors of the same shapes
    with pytest.raises(EngineError, match="convolutions in encoder, its graph has 8"):
        network.check(found, parsed(found, small, "encoder"), engine, 8)


def test_a_convolution_that_vanished(engine: Manifest, found: Library) -> None:
    with pytest.raises(EngineError, match="finds 11 convolutions in encoder, its graph has 12"):
        network.check(found, parsed(found, engine, "encoder"), engine, 12)


def test_a_graph_that_cannot_be_read(engine: Manifest, found: Library) -> None:
    model = half_graph(engine, "encoder")
    model.graph.node[0].op_type = "Unheard"
    with pytest.raises(EngineError, match=r"TensorRT-RTX [\d.]+ cannot read the graph of encoder"):
        network.parse(found, model, "encoder")
