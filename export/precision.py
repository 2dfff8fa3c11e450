# SPDX-License-Identifier: Apache-2.0
"""FP16: how far it is from FP32, and how close activations come to its limit of 65504."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.manifest import Manifest
from crispstream.model.network import HumanAwareNet, Output
from crispstream.model.pixels import blend
from crispstream.runners.protocol import geometry_of

from .build import build
from .frames import Rgb
from .parity import image_tensor, largest_difference, run_network, run_session


@torch.no_grad()
def half_errors(engine: Manifest, net: HumanAwareNet, pictures: dict[str, Rgb]) -> dict[str, float]:
    """Largest absolute difference from FP32, on [0, 1], of ``plain`` FP16 (``model.half()``) and of the FP16 ``graph``.

    The graph runs in ONNX Runtime. The rule is flash-attention's: a half engine may err twice as much as plain FP16
    arithmetic. ``pictures`` have one size. Pack and blend stay in FP32 on both sides.
    """
    half = deepcopy(net).half()
    errors: dict[str, list[float]] = {"plain": [], "graph": []}
    with TemporaryDirectory() as folder:
        made = build(net.preset, engine.weights_path, Path(folder), precision="float16")
        height, width = next(iter(pictures.values())).shape[:2]
        session = OnnxRuntimeEngine(made).session(geometry_of(engine, (width, height)))
        for rgb in pictures.values():
            image = image_tensor(rgb)
            spec = run_network(net, image)
            *features, head = half.encoder(half.packed(image).half())
            maps = [t.float() for t in (head, half.foreground(*features), half.background(*features))]
            plain = Output(blend(image, maps[0], maps[1], maps[2], engine.pack), *maps)
            errors["plain"].append(largest_difference(spec, plain))
            errors["graph"].append(largest_difference(spec, run_session(session, image, engine)))
    return {name: float(np.max(found)) for name, found in errors.items()}


@torch.no_grad()
def largest_activation(net: HumanAwareNet, pictures: dict[str, Rgb]) -> dict[str, Any]:
    """The largest absolute output of any layer of ``model.half()`` over ``pictures``, and which layer's it is."""
    half, largest = deepcopy(net).half(), dict[str, float]()

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
            if isinstance(output, Tensor):
                largest[name] = float(np.max([largest.get(name, 0.0), float(output.abs().max())]))

        module.register_forward_hook(hook)

    for name, module in half.named_modules():
        watch(name, module)
    for rgb in pictures.values():
        half(image_tensor(rgb).half())
    layer = max(largest, key=lambda name: np.nan_to_num(largest[name], nan=np.inf))
    return {"value": largest[layer], "layer": layer, "arithmetic": "float16"}
