# SPDX-License-Identifier: Apache-2.0
"""Two trainings mixed."""

from __future__ import annotations

from pathlib import Path

import torch

from crispstream.model.presets import preset
from training import checkpoint
from training.mix import mixed
from training.normalised import folded
from training.optimizer import MuonAdam
from training.supervised import supervised


def test_the_shares_ends_are_the_trainings_and_between_lie_both(tmp_path: Path) -> None:
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = supervised(preset("nano"))
        state = net.state_dict()
        average = {key: torch.rand_like(v) + 0.5 if v.is_floating_point() else v.clone() for key, v in state.items()}
        checkpoint.save(
            tmp_path / str(seed) / "checkpoint", checkpoint.Progress("nano"), net, average, MuonAdam(net, 0.1)
        )
        net.load_state_dict(average)
        nets.append(net)
    picture = torch.rand(1, 3, 32, 32)
    runs = tmp_path / "0", tmp_path / "1"
    with torch.inference_mode():
        for share, net in ((0.0, nets[0]), (1.0, nets[1])):
            torch.testing.assert_close(mixed("nano", *runs, share)(picture).head, folded(net.net)(picture).head)
    half = mixed("nano", *runs, 0.5).state_dict()
    states = [net.net.state_dict() for net in nets]
    bias = "encoder.head_out.bias"  # no normalisation is folded into it
    torch.testing.assert_close(half[bias], (states[0][bias] + states[1][bias]) / 2)
