# SPDX-License-Identifier: Apache-2.0
"""What `nano` could be instead, one choice changed at a time, at about equal cost. Only for ``training.ablate``."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crispstream.model.network import Encoder, HumanAwareNet, Output, Upsample
from crispstream.model.pixels import blend
from crispstream.model.presets import Preset, preset
from training.normalised import Normalised, folded, normalised
from training.optimizer import MuonAdam


class Altered(HumanAwareNet):
    """One branch only (``single``), or a constant in place of a map: (mask, gate), None where it is predicted."""

    def __init__(self, size: Preset, single: bool = False, maps: tuple[float | None, float | None] = (None, None)):
        super().__init__(size)
        self.single, self.maps = single, maps

    def forward(self, image: Tensor, strength: float = 1.0) -> Output:
        f0, f1, f2, head = self.encoder(self.packed(image))
        fg = self.foreground(f0, f1, f2)
        bg = None if self.single else self.background(f0, f1, f2)
        pairs = zip(head.split(1, 1), self.maps, strict=True)
        maps = torch.cat([found if fixed is None else torch.full_like(found, fixed) for found, fixed in pairs], 1)
        return Output(blend(image, maps, fg, bg, self.preset.pack, strength), head, fg, fg if bg is None else bg)


class Shallow(Encoder):
    """Without the context scale, whose layers lie idle."""

    def forward(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f0 = F.relu(self.stem(packed))
        f1 = F.relu(self.down1(f0))
        f2 = F.relu(self.down2(f1))
        return f0, f1, f2, torch.sigmoid(self.head_out(F.relu(self.head_mix(f2))))


class NoContext(HumanAwareNet):
    """With ``Shallow`` as its encoder."""

    def __init__(self, size: Preset) -> None:
        super().__init__(size)
        self.encoder = Shallow(size)
        self._initialise()


def addition(size: Preset) -> HumanAwareNet:
    """Addition and ReLU at the finest scale too, where the network has a product."""
    net = HumanAwareNet(size)
    for branch in (net.foreground, net.background):
        weights = branch.up0.state_dict()
        branch.up0 = Upsample(size.channels[1], size.channels[0])  # type: ignore[assignment]
        branch.up0.load_state_dict({**weights, "project.bias": torch.zeros(size.channels[0])})
    return net


class Reparameterised(nn.Module):
    """3x3 and 1x1 convolution and, where it fits, identity, each normalised, added up (RepVGG, CVPR 2021)."""

    def __init__(self, found: Normalised) -> None:
        super().__init__()
        conv = found.conv
        self.wide = found
        self.point = Normalised(nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride[0]))
        fits = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
        self.identity = nn.BatchNorm2d(conv.out_channels, momentum=found.norm.momentum) if fits else None
        parts = [found.norm, self.point.norm, *([self.identity] if self.identity is not None else [])]
        scale = float(found.norm.weight.detach()[0]) / len(parts) ** 0.5  # the sum varies as the 3x3 did
        for norm in parts:
            nn.init.constant_(norm.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.wide(x) + self.point(x)
        return total if self.identity is None else total + self.identity(x)

    def merged(self) -> nn.Conv2d:
        """One 3x3 convolution that computes the same in evaluation mode."""
        conv = fuse_conv_bn_eval(self.wide.conv, self.wide.norm)
        parts = [fuse_conv_bn_eval(self.point.conv, self.point.norm)]
        if self.identity is not None:
            same = nn.Conv2d(conv.in_channels, conv.out_channels, 1).to(conv.weight)
            nn.init.dirac_(same.weight)
            assert same.bias is not None
            nn.init.zeros_(same.bias)
            parts.append(fuse_conv_bn_eval(same.eval(), self.identity))
        for part in parts:
            assert conv.bias is not None and part.bias is not None
            conv.weight += F.pad(part.weight, (1, 1, 1, 1))
            conv.bias += part.bias
        return conv


def _swap(net: nn.Module, kind: type[nn.Module], other: Callable[[Any], nn.Module], but: str = "") -> None:
    places = [(m, n, c) for m in net.modules() for n, c in m.named_children() if isinstance(c, kind) and n != but]
    for module, name, child in places:
        setattr(module, name, other(child))


@torch.no_grad()
def plain(net: HumanAwareNet) -> HumanAwareNet:
    """A copy in evaluation mode that computes the same with bare convolutions."""
    copy = deepcopy(net).eval()
    _swap(copy, Reparameterised, Reparameterised.merged)
    return folded(copy)


class Variant(NamedTuple):
    """``what`` for the table. ``build`` the bare network. ``trained``: normalised, reparameterised, bare or adam.
    ``real``: high-speed frames in the data too. ``labels``: whether mask and gate are learnt."""

    what: str
    build: Callable[[], HumanAwareNet]
    trained: str = "normalised"
    real: bool = False
    labels: tuple[bool, bool] = (True, True)


def _sized(**changes: Any) -> Preset:
    return replace(preset("nano"), **changes)


def _altered(**how: Any) -> Callable[[], HumanAwareNet]:
    size = _sized(branch_blocks=(0, 0, 3)) if how.get("single") else _sized()
    return lambda: Altered(size, **how)


def _net(**changes: Any) -> Callable[[], HumanAwareNet]:
    return lambda: HumanAwareNet(_sized(**changes))


STEM4 = {"pack": 4, "channels": (64, 64, 64), "encoder_blocks": (0, 0, 1)}
FINE = {"channels": (20, 48, 64), "branch_blocks": (1, 0, 0)}
LOW = {"channels": (20, 40, 60), "branch_blocks": (0, 0, 2)}
VARIANTS = {
    "shipped": Variant("as shipped", _net()),
    "high-speed": Variant("two of five samples real (240 fps) blur", _net(), real=True),
    "one-branch": Variant("one branch, two blocks deeper at 1/8", _altered(single=True)),
    "mask-only": Variant("person mask only (gate = 1)", _altered(maps=(None, 1.0)), labels=(True, False)),
    "gate-only": Variant("blur gate only (mean of the branches)", _altered(maps=(0.5, None)), labels=(False, True)),
    "stem-4": Variant("finest scale 1/4 instead of 1/2", _net(**STEM4)),
    "addition": Variant("addition and ReLU instead of modulation", lambda: addition(_sized())),
    "no-context": Variant("no context at 1/16, wider at 1/2", lambda: NoContext(_sized(channels=(36, 48, 64)))),
    "depth-fine": Variant("block at 1/2 (20 channels) instead of 1/8", _net(**FINE)),
    "depth-low": Variant("two blocks at 1/8, narrower above", _net(**LOW)),
    "depth-context": Variant(
        "no blocks in branches, wide deep context", _net(context=(96, 4), branch_blocks=(0, 0, 0))
    ),
    "reparameterised": Variant("3x3 + 1x1 + identity while training", _net(), trained="reparameterised"),
    "adam": Variant("Adam instead of Muon, its own rate", _net(), trained="adam"),
    "bare": Variant("no normalisation", _net(), trained="bare"),
}

RATE, ADAM_SHARE = 1e-2, 0.2
"""Learning rate of the convolutions, and Adam's as a share of Muon's."""


def trainable(variant: Variant) -> HumanAwareNet:
    """The network of a variant, fresh, as it is trained."""
    net = variant.build()
    if variant.trained != "bare":
        normalised(net)
    if variant.trained == "reparameterised":
        _swap(net, Normalised, Reparameterised, but="stem")
    return net


def optimizer(net: HumanAwareNet, variant: Variant) -> MuonAdam:
    """Muon, or Adam for all of it."""
    found = MuonAdam(net, RATE)
    if variant.trained == "adam":
        for group in found.param_groups:
            if group["orthogonal"]:
                group.update(orthogonal=False, share=ADAM_SHARE)
    return found
