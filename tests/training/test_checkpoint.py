# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in shards: small files, all or a clear word, and the old one until the new one is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crispstream.errors import InputError
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from training import checkpoint
from training.checkpoint import INDEX, Progress, find, load, save

LIMIT = 20_000
State = tuple[nn.Module, dict[str, torch.Tensor], torch.optim.AdamW]


def state(width: int = 16, seed: int = 0) -> State:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3, 3))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.rand(1, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return net, {k: v.detach().clone() * 2 for k, v in net.state_dict().items()}, optimizer


def test_shards_stay_under_the_limit_and_come_back(tmp_path: Path) -> None:
    net, average, optimizer = state()
    save(tmp_path, Progress("toy", 7, 6, losses=[(3, 0.5)]), net, average, optimizer, torch.float32, LIMIT)
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert len(parts) > 2 and max(p.stat().st_size for p in parts) <= LIMIT
    other, other_average, other_optimizer = state(seed=1)
    progress = load(tmp_path, other, other_average, other_optimizer)
    assert (progress.step, progress.updates, progress.losses) == (7, 6, [[3, 0.5]])
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(other_average[name], average[name])
        for moment in checkpoint.MOMENTS:
            assert torch.equal(optimizer.state[a][moment], other_optimizer.state[b][moment])
        assert other_optimizer.state[b]["step"] == 6


def test_the_largest_preset_fits_shards_of_15_mib(tmp_path: Path) -> None:
    net = HumanAwareNet(preset("base"))
    average = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters())
    for p in net.parameters():
        optimizer.state[p] = {m: torch.zeros_like(p) for m in checkpoint.MOMENTS}
    save(tmp_path, Progress("base"), net, average, optimizer)
    assert max(p.stat().st_size for p in tmp_path.iterdir()) <= 15 * 2**20


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    net, average, optimizer = state()
    save(tmp_path, Progress("toy"), net, average, optimizer, limit=LIMIT)
    second = tmp_path / "00001-02.safetensors"
    content = second.read_bytes()
    second.write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"00001-02\.safetensors is damaged"):
        load(tmp_path, net, average, optimizer)
    second.unlink()
    with pytest.raises(InputError, match=r"lacks 00001-02\.safetensors of \d shards"):
        load(tmp_path, net, average, optimizer)


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_killed_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
    net, average, optimizer = state()
    save(tmp_path, Progress("toy", 1), net, average, optimizer, torch.float32, LIMIT)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    written = 0

    def dies(tensors: Any, path: Path) -> None:
        nonlocal written
        if written == survived:
            path.write_bytes(b"half a sh")
            raise KeyboardInterrupt
        written += 1
        real(tensors, path)

    real = checkpoint.save_file
    changed = state(seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", dies)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, Progress("toy", 2), *changed, torch.float32, LIMIT)
    assert load(tmp_path, net, average, optimizer).step == 1
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    save(tmp_path, Progress("toy", 3), *changed, torch.float32, LIMIT)
    assert load(tmp_path, net, average, optimizer).step == 3
    assert {p.name[:5] for p in tmp_path.glob("*.safetensors")} == {"00002"}, "nothing is left of older saves"


def test_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path, Progress("toy"), *state())
    with pytest.raises(InputError, match="another 'toy' network"):
        load(tmp_path, *state(width=8))


def test_a_run_folder_and_its_checkpoint_folder_both_do(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", Progress("toy"), *state())
    assert find(tmp_path) == find(tmp_path / "checkpoint") == tmp_path / "checkpoint"
    (tmp_path / "checkpoint" / INDEX).unlink()
    with pytest.raises(InputError, match="no checkpoint"):
        find(tmp_path)
