# SPDX-License-Identifier: Apache-2.0
"""The network as ONNX graphs: its parts and the fused one, FP32, for any padded size. ``half.py`` makes them FP16."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from crispstream import manifest
from crispstream.errors import EngineError
from crispstream.model.network import Branch, HumanAwareNet
from crispstream.model.presets import Preset

from .half import BLOCKED
from .weights import StoredTensor

OPSET = 18
_BRANCHES = {graph: branch for branch, graph in manifest.FACTORS.items()}
FEATURES = ("features0", "features1", "features2")
BOUNDARIES = {
    "encoder": (("packed",), (*FEATURES, "head")),
    "foreground": (FEATURES, ("residual",)),
    "background": (FEATURES, ("residual",)),
    **dict.fromkeys(manifest.FACTORS.values(), (FEATURES[1:], ("factors",))),
    "fused": (("packed",), ("head", "foreground", "background")),
}
"""Inputs and outputs of every graph."""


def tensor_shapes(preset: Preset) -> dict[str, tuple[int | str, ...]]:
    """Shape of every boundary tensor, with the named dimensions of the manifest."""

    def at(channels: int, step: int) -> tuple[int | str, ...]:
        return (1, channels, f"height_{step}", f"width_{step}")

    s = preset.pack
    shapes = {name: at(c, s << i) for i, (name, c) in enumerate(zip(FEATURES, preset.channels, strict=True))}
    packed = at(preset.packed_channels, s)
    return {"packed": packed, **shapes, "head": at(2, preset.map_stride), "residual": packed}


def build_graph(
    preset: Preset,
    weights: dict[str, StoredTensor],
    part: str,
    location: str | None = None,
) -> ModelProto:
    """The ONNX graph of ``part``: ``fused``, or one of ``manifest.graph_names``.

    Initialisers are the FP16 bits of ``weights``: references into the file ``location``, or, without one, inside the
    graph. A Cast follows each, which ONNX Runtime folds at load, and branches get ``_block_features``. The graph
    depends on the preset, never on the weights' values. Raises EngineError where the weights are not the preset's.
    """
    model = _trace(preset, part)
    _store_weights(model, weights, "" if part == "fused" else f"{_BRANCHES.get(part, part)}.", location)
    if part not in ("encoder", "fused"):
        _block_features(model, preset)
    return model


class _Factors(nn.Module):
    """A branch up to what its finest features are multiplied by; parameters are called as in the branch."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        if len(branch.blocks0):
            raise EngineError("a branch with blocks at the finest scale does not end in a product and a convolution")
        self.blocks2, self.up1, self.blocks1, self.up0 = branch.blocks2, branch.up1, branch.blocks1, branch.up0

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        factors: Tensor = self.up0.project(self.blocks1(self.up1(self.blocks2(f2), f1)))
        return factors


class _Fused(nn.Module):
    def __init__(self, net: HumanAwareNet) -> None:
        super().__init__()
        self.encoder, self.foreground, self.background = net.encoder, net.foreground, net.background

    def forward(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f0, f1, f2, head = self.encoder(packed)
        return head, self.foreground(f0, f1, f2), self.background(f0, f1, f2)


def _module(net: HumanAwareNet, part: str) -> nn.Module:
    if part == "fused":
        return _Fused(net)
    if part in _BRANCHES:
        return _Factors(cast(Branch, net.get_submodule(_BRANCHES[part])))
    return net.get_submodule(part)


def _trace(preset: Preset, part: str) -> ModelProto:
    net = HumanAwareNet(preset).eval()
    for i, parameter in enumerate(net.parameters()):
        nn.init.constant_(parameter, i)  # all different: the exporter would merge equal ones
    inputs, outputs = BOUNDARIES[part]
    shapes = tensor_shapes(preset)
    shapes |= dict.fromkeys(manifest.PARTS[1:], shapes["residual"])
    shapes["factors"] = (1, preset.channels[0], *shapes["features1"][2:])
    size = 2 * preset.multiple
    example = tuple(torch.zeros(manifest.Tensor(shapes[name], "", "").sizes(size, size)) for name in inputs)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder) / "part.onnx"
        # The tracing exporter: its graph is the network, node for node. The newer one leaves out biases that are zero
        # and takes twenty times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _module(net, part),
            example,
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={n: {i: d for i, d in enumerate(shapes[n]) if isinstance(d, str)} for n in inputs + outputs},
        )
        model = onnx.load(file)
    model.graph.name = f"{preset.name}_{part}"
    return model


def _store_weights(model: ModelProto, weights: dict[str, StoredTensor], prefix: str, location: str | None) -> None:
    casts = []
    for tensor in model.graph.initializer:
        inner, stored = tensor.name, weights.get(prefix + tensor.name)
        if stored is None or list(stored.value.shape) != list(tensor.dims):
            raise EngineError(f"the weights do not hold {prefix}{inner} with shape {list(tensor.dims)}")
        name = prefix + inner
        tensor.CopyFrom(numpy_helper.from_array(stored.value, name))
        if location:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", stored.offset), ("length", stored.length)):
                tensor.external_data.add(key=key, value=str(value))
        target = f"{name}.float32"
        casts.append(helper.make_node("Cast", [name], [target], f"{name}.cast", to=TensorProto.FLOAT))
        _rename_uses(model, inner, target)
    _prepend(model, casts)


def _block_features(model: ModelProto, preset: Preset) -> None:
    """Pass each feature map through a 1x1 depthwise convolution with weight 1: the identity, exactly.

    ONNX Runtime computes convolutions in a blocked channel layout (NCHWc) and carries it from one convolution to the
    next only. A skip connection that is a graph input is in plain layout, and its addition would pull the whole branch
    out of the blocked one and back. Behind a convolution it joins in, and the addition and ReLU fuse into it.
    """
    nodes = []
    given = {value.name for value in model.graph.input}
    for name, channels in zip(FEATURES, preset.channels, strict=True):
        if name not in given:
            continue
        ones, blocked = f"{name}.ones", f"{name}{BLOCKED}"
        _rename_uses(model, name, blocked)
        model.graph.initializer.append(numpy_helper.from_array(np.ones((channels, 1, 1, 1), np.float32), ones))
        nodes.append(helper.make_node("Conv", [name, ones], [blocked], blocked, kernel_shape=[1, 1], group=channels))
    _prepend(model, nodes)


def _rename_uses(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _prepend(model: ModelProto, nodes: list[onnx.NodeProto]) -> None:
    nodes = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
