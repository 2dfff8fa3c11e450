# SPDX-License-Identifier: Apache-2.0
"""Mix two trainings of a preset: ``python -m training.mix --preset nano --first RUN --second RUN --share 0.35``.

The moving averages of both are interpolated before their normalisation is folded (Wortsman et al., ICML 2022: weights
of one training and of what went on from it mix well). docs/ablations.md says what it is good for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from crispstream.errors import CrispStreamError
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import save_weights
from training import checkpoint
from training.headroom import with_headroom
from training.normalised import folded
from training.optimizer import MuonAdam
from training.supervised import supervised


def averages(name: str, run: Path) -> dict[str, torch.Tensor]:
    """The moving average in the checkpoint of a run or checkpoint folder. Raises InputError."""
    net = supervised(preset(name))
    average = {key: value.detach().clone() for key, value in net.state_dict().items()}
    checkpoint.load(checkpoint.find(run), net, average, MuonAdam(net, 0.0))
    return average


def mixed(name: str, first: Path, second: Path, share: float) -> HumanAwareNet:
    """``share`` in [0, 1] of the second training, the rest of the first; folded. Raises InputError."""
    one, other = averages(name, first), averages(name, second)
    net = supervised(preset(name))
    net.load_state_dict({key: v.lerp(other[key], share) if v.is_floating_point() else v for key, v in one.items()})
    return folded(net.net)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--first", type=Path, required=True, help="run or checkpoint folder")
    parser.add_argument("--second", type=Path, required=True, help="one that went on from it")
    parser.add_argument("--share", type=float, required=True, help="of the second, 0 to 1")
    parser.add_argument("--output", type=Path, required=True, help="weights to write")
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        sys.exit(f"error: a share of {arguments.share} is outside 0..1")
    try:
        net = mixed(arguments.preset, arguments.first, arguments.second, arguments.share)
        save_weights(with_headroom(net), arguments.output)
    except CrispStreamError as error:
        sys.exit(f"error: {error}\n{error.hint}")


if __name__ == "__main__":
    main()
