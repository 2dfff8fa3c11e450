# SPDX-License-Identifier: Apache-2.0
"""A part as a TensorRT network: parsed from its FP16 graph, checked, given its formats and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from crispstream.engine.tensorrt import TENSORS_OF, Library
from crispstream.errors import EngineError
from crispstream.manifest import Manifest, Tensor
from crispstream.plan import Profile


@dataclass(frozen=True)
class Network:
    """A parsed part. ``parser`` owns the weights that ``network`` points at, so it is kept as long."""

    part: str
    builder: Any
    parser: Any
    network: Any

    @property
    def tensors(self) -> list[Any]:
        """Inputs and outputs."""
        network = self.network
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        return inputs + [network.get_output(i) for i in range(network.num_outputs)]


def parse(library: Library, model: ModelProto, part: str) -> Network:
    """``model`` as a strongly typed network: TensorRT takes every type from the graph. Raises EngineError."""
    trt = library.trt
    builder = trt.Builder(library.log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.log)
    if not parser.parse(model.SerializeToString()):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(f"{library} cannot read the graph of {part}: {'; '.join(said)}")
    return Network(part, builder, parser, network)


def check(library: Library, found: Network, engine: Manifest, convolutions: int) -> None:
    """Raise EngineError, with the layer's or tensor's name, where the network is not the one that was exported.

    There are ``convolutions``, whose inputs, weights, biases and outputs are FP16; nothing is cast; tensors have the
    names and shapes of the engine's manifest.
    """
    trt, network = library.trt, found.network
    here = {tensor.name: tensor for tensor in found.tensors}
    if set(here) != set(TENSORS_OF[found.part]):
        raise EngineError(f"{library} finds the tensors {', '.join(sorted(here))} in {found.part}")
    for name, tensor in here.items():
        shape = tuple(d if isinstance(d, int) else -1 for d in engine.tensors[name].shape)
        if tuple(tensor.shape) != shape or tensor.dtype != trt.DataType.HALF:
            raise EngineError(f"{library} finds {tensor.dtype} {tuple(tensor.shape)} for {name} in {found.part}")
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in layers:
        if kinds := _not_half(trt, layer):
            message = f"{found.part} would not run in FP16: layer {layer.name} ({layer.type}) has {', '.join(kinds)}"
            raise EngineError(message, "the engine folder is not what `python -m crispstream.export` writes")
    count = sum(layer.type == trt.LayerType.CONVOLUTION for layer in layers)
    if count != convolutions:
        raise EngineError(f"{library} finds {count} convolutions in {found.part}, its graph has {convolutions}")


def set_formats(library: Library, found: Network, tensors: dict[str, Tensor]) -> None:
    """Give every input and output the one format that ``tensors`` names."""
    for tensor in found.tensors:
        tensor.allowed_formats = 1 << int(getattr(library.trt.TensorFormat, tensors[tensor.name].layout))


def set_sizes(found: Network, config: Any, engine: Manifest, profile: Profile) -> None:
    """Give every input its one size, or ``config`` the range of sizes. Raises EngineError where it is refused."""
    inputs = [found.network.get_input(i) for i in range(found.network.num_inputs)]
    if profile.fixed:
        for tensor in inputs:
            tensor.shape = engine.tensors[tensor.name].sizes(*profile.optimum)
        return
    added = found.builder.create_optimization_profile()
    for tensor in inputs:
        sizes = (profile.minimum, profile.optimum, profile.maximum)
        added.set_shape(tensor.name, *(engine.tensors[tensor.name].sizes(*size) for size in sizes))
    if config.add_optimization_profile(added) < 0:
        raise EngineError(f"TensorRT refuses the sizes {profile} for {found.part}")


def _not_half(trt: Any, layer: Any) -> list[str]:
    """What is not FP16 about a layer. Integers are sizes, and a constant's type shows where it is used."""
    half, whole = trt.DataType.HALF, (trt.DataType.INT32, trt.DataType.INT64)
    if layer.type in (trt.LayerType.CAST, trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE):
        return [str(layer.type)]
    if layer.type == trt.LayerType.CONSTANT:
        return []
    tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
    tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
    kinds = [tensor.dtype for tensor in tensors if tensor is not None and tensor.dtype not in (half, *whole)]
    found = [str(kind) for kind in kinds]
    # get_layer returns the base class.
    kind = {
        trt.LayerType.CONVOLUTION: trt.IConvolutionLayer,
        trt.LayerType.DECONVOLUTION: trt.IDeconvolutionLayer,
    }.get(layer.type)
    if kind:
        found += [str(tensor.dtype) for tensor in tensors if tensor is not None and tensor.dtype in whole]
        layer.__class__ = kind
        values = {"weights": layer.kernel, "bias": layer.bias}
        found += [f"{name} of {v.dtype}" for name, v in values.items() if v.size and v.dtype != "float16"]
    return found
