# SPDX-License-Identifier: Apache-2.0
"""Training state in one safetensors file: weights, their moving average, AdamW moments, step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """``step`` done so far, training ``seconds`` spent, validation ``curve`` [(step, dB gain)]."""

    preset: str
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)


def save(
    path: Path, progress: Progress, net: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.AdamW
) -> None:
    """Write everything that resuming needs; the old file stays until the new one is whole."""
    tensors = {f"net.{k}": v.detach().contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in average.items()}
    for name, parameter in net.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment].contiguous() for moment in MOMENTS if moment in state}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"progress": json.dumps(asdict(progress))})
    partial.replace(path)


def load(path: Path, net: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.AdamW) -> Progress:
    """Restore in place what ``save`` wrote. Raises ValueError when the file is of another network."""
    with safe_open(path, "pt") as file:
        progress = Progress(**json.loads(file.metadata()["progress"]))
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    try:
        net.load_state_dict({k[4:]: v for k, v in stored.items() if k.startswith("net.")})
    except RuntimeError as error:
        raise ValueError(f"{path} is a checkpoint of '{progress.preset}'") from error
    for name in average:
        average[name].copy_(stored[f"average.{name}"])
    for name, parameter in net.named_parameters():
        if f"exp_avg.{name}" in stored:
            moments = {m: stored[f"{m}.{name}"].to(parameter.device) for m in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(progress.step)), **moments}
    return progress
