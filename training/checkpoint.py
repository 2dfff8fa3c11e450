# SPDX-License-Identifier: Apache-2.0
"""Training state in a folder: ``index.json`` and shards of at most 15 MiB with weights, their average, moments.

A save writes new shards first, then replaces the index, then deletes the old shards: killed at any point, it leaves
either the old state or the new one whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crispstream.errors import InputError

MOMENTS = ("exp_avg", "exp_avg_sq")
INDEX = "index.json"
SHARD_BYTES = 15 * 2**20
HEADER_BYTES = 256
"""Room in a shard for the name, type and shape of one tensor."""


@dataclass
class Progress:
    """``step`` done, ``updates`` of the weights among them, training ``seconds``, moving mean ``loss``; curves
    ``losses`` [(step, moving mean)] and ``gains`` [(step, validation gain in dB)]."""

    preset: str
    step: int = 0
    updates: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    gains: list[tuple[int, float]] = field(default_factory=list)


def shards(tensors: dict[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Split in order into groups of at most ``limit`` bytes. Raises ValueError where one tensor is larger."""
    group: dict[str, Tensor] = {}
    used = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes + HEADER_BYTES
        if size > limit:
            raise ValueError(f"{name} takes {size} bytes, a shard holds {limit}")
        if used + size > limit:
            yield group
            group, used = {}, 0
        group[name] = tensor
        used += size
    yield group


def save(
    folder: Path,
    progress: Progress,
    net: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    moments: torch.dtype = torch.bfloat16,
    limit: int = SHARD_BYTES,
) -> None:
    """Write everything that resuming needs. ``moments``: the type in which the optimiser's moments are stored."""
    tensors = {f"net.{k}": v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v.cpu().contiguous() for k, v in average.items()}
    for name, parameter in net.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{m}.{name}": state[m].to("cpu", moments).contiguous() for m in MOMENTS if m in state}
    folder.mkdir(parents=True, exist_ok=True)
    number = _read_index(folder)["save"] + 1 if (folder / INDEX).exists() else 1
    names = []
    for part, group in enumerate(shards(tensors, limit), 1):
        names.append(f"{number:05}-{part:02}.safetensors")
        save_file(group, folder / names[-1])
    partial = folder / "index.partial"
    partial.write_text(json.dumps({"save": number, "shards": names, "progress": asdict(progress)}, indent=1) + "\n")
    partial.replace(folder / INDEX)
    for path in folder.glob("*.safetensors"):
        if path.name not in names:
            path.unlink()


def load(folder: Path, net: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Progress:
    """Restore in place what ``save`` wrote. Raises InputError naming every shard that is missing, a damaged one, or
    the preset when it is another."""
    index = _read_index(folder)
    missing = [name for name in index["shards"] if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"checkpoint {folder} lacks {', '.join(missing)} of {len(index['shards'])} shards",
            "copy them beside the others, or name another checkpoint with --resume",
        )
    progress = Progress(**index["progress"])
    stored: dict[str, Tensor] = {}
    for name in index["shards"]:
        try:
            stored |= load_file(folder / name)
        except SafetensorError as error:
            raise InputError(f"shard {folder / name} is damaged: {error}", "copy it again") from error
    try:
        net.load_state_dict({k[4:]: v for k, v in stored.items() if k.startswith("net.")})
    except RuntimeError as error:
        hint = f"give --preset {progress.preset} or another folder; what is old begins anew with training.grow"
        raise InputError(f"{folder} is a checkpoint of another '{progress.preset}' network", hint) from error
    for name in average:
        average[name].copy_(stored[f"average.{name}"])
    for name, parameter in net.named_parameters():
        names = [m for m in MOMENTS if f"{m}.{name}" in stored]
        moments = {m: torch.empty_like(parameter.detach()).copy_(stored[f"{m}.{name}"]) for m in names}
        if moments:
            optimizer.state[parameter] = {"step": progress.updates, **moments}
    return progress


def find(path: Path) -> Path:
    """The checkpoint folder at ``path``, which may be itself or a run folder. Raises InputError where none is."""
    for folder in (path, path / "checkpoint"):
        if (folder / INDEX).exists():
            return folder
    raise InputError(f"no checkpoint in {path}", "leave --resume out to start anew")


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except ValueError as error:
        raise InputError(f"{folder / INDEX} is damaged: {error}", "delete the folder to start anew") from error
    return index
