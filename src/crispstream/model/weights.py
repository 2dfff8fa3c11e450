# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: safetensors, rounded once to FP16. Never pickle."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from crispstream.errors import EngineError
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import Preset


def save_weights(net: HumanAwareNet, path: Path) -> None:
    """Write every parameter, and the fixed weights of a guide, as FP16. Raises EngineError where one is not finite."""
    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in net.state_dict().items()}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise EngineError(f"weight {name} is not finite in FP16")
    save_file(state, path)


def load_network(preset: Preset, path: Path) -> HumanAwareNet:
    """The network in FP32 evaluation mode. Raises EngineError when the file is damaged or of another preset."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"cannot read weights {path}: {error}") from error
    net = HumanAwareNet(preset)
    try:
        net.load_state_dict({k: v.float() for k, v in state.items()})
    except RuntimeError as error:
        raise EngineError(f"{path} does not hold the weights of preset '{preset.name}'") from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise EngineError(f"weight {name} in {path} is not finite", "restore the file or train again")
    return net.eval()
