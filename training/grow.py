# SPDX-License-Identifier: Apache-2.0
"""Start a deeper preset where a trained one stands: ``python -m training.grow --first nano --preset small --data DIR``.

Blocks that the trained network lacks begin as the identity, and a guide is not listened to yet, so that the larger one
computes the same at first (Net2Net, Chen et al., ICLR 2016) and only has to learn what its depth adds.
``training.train --run`` takes it up from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crispstream import manifest
from crispstream.errors import CrispStreamError, UsageError
from crispstream.model.network import HumanAwareNet, ResidualBlock
from crispstream.model.presets import PRESETS, Preset, preset
from crispstream.model.weights import load_network
from training import checkpoint
from training.dataset import PhotoSet, read_manifest
from training.normalised import Normalised, normalised
from training.optimizer import MuonAdam
from training.supervised import Supervised

WEIGHT_SIZE = 0.8
"""Root mean square of trained weights before their normalisation, which sets how far a step turns them."""

PICTURES, SIZE, LONGEST = 32, 192, 24.0
"""Synthesised pictures, their side and their longest blur, that the normalisation is measured on."""


def grown(trained: HumanAwareNet, size: Preset) -> HumanAwareNet:
    """A bare network of ``size`` that computes what ``trained`` does; new blocks end in zeros, and what a guide says
    counts for nothing yet. The guide is grown likewise, from the background branch.

    Raises UsageError where ``size`` differs in more than blocks and a guide that are added.
    """
    net = HumanAwareNet(size).eval()
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.second.weight)
    values, known = net.state_dict(), trained.state_dict()
    if any(name not in values or values[name].shape != value.shape for name, value in known.items()):
        hint = "widths must be the same, and no scale may have fewer blocks"
        raise UsageError(f"'{size.name}' is not '{trained.preset.name}' with more blocks", hint)
    net.load_state_dict(values | known)
    if size.guide and not trained.preset.guide:
        assert net.encoder.guide is not None
        nn.init.zeros_(net.encoder.guided.weight)
        first = grown(trained, size.guide)
        net.encoder.guide.trunk.load_state_dict(first.encoder.state_dict(), strict=False)  # a head is not wanted
        net.encoder.guide.branch.load_state_dict(first.background.state_dict())
    return net


@torch.no_grad()
def trainable(net: HumanAwareNet, pictures: Tensor) -> HumanAwareNet:
    """``net`` with the normalisations that ``training.normalised`` folded away; computes the same in evaluation mode.

    They get the mean and deviation that each channel has on ``pictures`` (N, 3, H, W). Blocks that are still the
    identity, and what takes a guide in, get those of a fresh network, but for the factor zero that they end in.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, conv: nn.Conv2d) -> RemovableHandle:
        def see(_: nn.Module, __: object, output: Tensor) -> None:
            seen[name] = output.mean((0, 2, 3)), output.var((0, 2, 3), unbiased=False)

        return conv.register_forward_hook(see)

    hooks = [watch(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    net(pictures)
    for hook in hooks:
        hook.remove()

    idle = {name for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and not bool(m.weight.any())}
    fresh = idle | {name.removesuffix("second") + "first" for name in idle if name.endswith(".second")}
    normalised(net).eval()
    for name, module in net.named_modules():
        if isinstance(module, Normalised) and name not in fresh:
            _settle(module, *seen[name])
        elif isinstance(module, Normalised) and name in idle:
            nn.init.kaiming_normal_(module.conv.weight, nonlinearity="relu")
            nn.init.zeros_(module.norm.weight)
    return net


def _settle(module: Normalised, mean: Tensor, variance: Tensor) -> None:
    conv, norm = module.conv, module.norm
    assert conv.bias is not None and norm.running_mean is not None and norm.running_var is not None
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean)
    # Each channel by itself: its normalisation undoes it.
    factor = WEIGHT_SIZE / conv.weight.square().mean((1, 2, 3)).sqrt().clamp(min=1e-6)
    conv.weight.mul_(factor[:, None, None, None])
    conv.bias.mul_(factor)
    norm.running_mean.copy_(mean * factor)
    # The deviation that is divided by is that of the weight above, times the factor: exactly the same function.
    norm.running_var.copy_((variance + norm.eps) * factor.square() - norm.eps)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", choices=list(PRESETS), required=True, help="preset whose weights are there")
    parser.add_argument("--weights", type=Path, help="its weights (default: those of the installed engine)")
    parser.add_argument("--preset", choices=list(PRESETS), required=True, help="preset to start")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder with manifest.csv (runs/data)")
    parser.add_argument("--run", type=Path, help="folder for the checkpoint (default: runs/PRESET)")
    parser.add_argument("--step", type=int, default=0, help="of the schedule of training.train to go on at (0)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    folder = (arguments.run or Path("runs") / arguments.preset) / "checkpoint"
    try:
        if (folder / checkpoint.INDEX).exists():
            raise UsageError(f"{folder} holds a training already", "name another folder with --run, or remove that one")
        weights = arguments.weights or manifest.load(arguments.first).weights_path
        photos = PhotoSet(read_manifest(arguments.data, "train"))
        pictures = photos.batch(PICTURES, SIZE, LONGEST, arguments.seed, torch.device("cpu")).blurry
        net = trainable(grown(load_network(preset(arguments.first), weights), preset(arguments.preset)), pictures)
    except CrispStreamError as error:
        sys.exit(f"error: {error}\n{error.hint}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error}\npack photographs with python -m training.pack, or name them with --data")
    taught = Supervised(net)
    average = {name: value.clone() for name, value in taught.state_dict().items()}
    progress = checkpoint.Progress(arguments.preset, arguments.step)
    checkpoint.save(folder, progress, taught, average, MuonAdam(taught, 0.0))
    print(folder)


if __name__ == "__main__":
    main()
