# SPDX-License-Identifier: Apache-2.0
"""Encoder with head, and two residual branches.

After *Human-Aware Motion Deblurring* (Shen et al., ICCV 2019): shared encoder, human mask, a foreground and a
background decoder. Unlike there, the branches return residuals that a per-pixel blend adds to the frame, and the head
also predicts how much each pixel is blurred, so that sharp pixels are left alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crispstream.model.initialisation import keep_variance, whiten_stem
from crispstream.model.pixels import blend, halving, pack, pad_to_multiple, spreading
from crispstream.model.presets import HEAD_CHANNELS, Preset

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""What the encoder returns: three scales and the head."""


class Output(NamedTuple):
    """``image`` (N, 3, H, W); ``head`` (N, 2, H', W') mask and gate; residuals (N, 3 s^2, H/s, W/s), padded size."""

    image: Tensor
    head: Tensor
    foreground: Tensor
    background: Tensor


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> same
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Upsample(nn.Module):
    """1x1 convolution, nearest x2, add the skip, ReLU.

    Nearest and 1x1 instead of pixel shuffle: engines keep their blocked channel layout through it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = _conv(inputs, outputs, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, Cin, H, W), (N, Cout, 2H, 2W) -> as skip
        return F.relu(F.interpolate(self.project(x), scale_factor=2.0, mode="nearest") + skip)


class Modulation(nn.Module):
    """Fine features times a factor that the coarser scale says: 1x1 convolution, nearest x2, product with the skip.

    What undoes blur depends on its direction and length, which only the coarser scales see: they choose among the fine
    scale's filters. (Multiplication in place of an activation: NAFNet, ECCV 2022.)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = _conv(inputs, outputs, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, Cin, H, W), (N, Cout, 2H, 2W) -> as skip
        return skip * F.interpolate(self.project(x), scale_factor=2.0, mode="nearest")


class Trunk(nn.Module):
    """Packed frame (N, 3 s^2, H/s, W/s) -> features at H/s, H/2s, H/4s."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        c0, c1, c2 = preset.channels
        e0, e1, e2 = preset.encoder_blocks
        deep, deep_blocks = preset.context
        self.stem = _conv(preset.packed_channels, c0)
        self.blocks0 = _blocks(c0, e0)
        self.down1 = _conv(c0, c1, stride=2)
        self.blocks1 = _blocks(c1, e1)
        self.down2 = _conv(c1, c2, stride=2)
        self.blocks2 = _blocks(c2, e2)
        self.down3 = _conv(c2, deep, stride=2)
        self.context = _blocks(deep, deep_blocks)
        self.up2 = Upsample(deep, c2)

    def look(self, packed: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The features; ``beside`` (N, C, H/s, W/s) is added to what the stem returns."""
        seen = self.stem(packed)
        f0 = self.blocks0(F.relu(seen if beside is None else seen + beside))
        f1 = self.blocks1(F.relu(self.down1(f0)))
        f2 = self.blocks2(F.relu(self.down2(f1)))
        return f0, f1, self.up2(self.context(F.relu(self.down3(f2))), f2)


class Branch(nn.Module):
    """Features at three scales -> packed residual (N, 3 s^2, H/s, W/s)."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        c0, c1, c2 = preset.channels
        b0, b1, b2 = preset.branch_blocks
        self.blocks2 = _blocks(c2, b2)
        self.up1 = Upsample(c2, c1)
        self.blocks1 = _blocks(c1, b1)
        self.up0 = Modulation(c1, c0)
        self.blocks0 = _blocks(c0, b0)
        self.out = _conv(c0, preset.packed_channels)

    def forward(self, f0: Tensor, f1: Tensor, f2: Tensor) -> Tensor:
        y = self.blocks1(self.up1(self.blocks2(f2), f1))
        residual: Tensor = self.out(self.blocks0(self.up0(y, f0)))
        return residual


class Guide(nn.Module):
    """What blur does to the picture at half its size, where long motion is short: packed frame (N, 3 s^2, H/s, W/s) ->
    residual of the halved frame (N, 3, H/2, W/2).

    From coarse to fine, as in SRN (Tao et al., CVPR 2018), but once.
    """

    halve: Tensor
    spread: Tensor

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        # Averaging and depth-to-space as convolutions, which engines do best. They are kept with the weights, but never
        # learnt.
        self.register_buffer("halve", halving())
        self.register_buffer("spread", spreading())
        self.trunk = Trunk(preset)
        self.branch = Branch(preset)

    def forward(self, packed: Tensor) -> Tensor:
        residual = self.branch(*self.trunk.look(F.conv2d(packed, self.halve, stride=2)))
        return F.conv_transpose2d(residual, self.spread, stride=2)


class Encoder(Trunk):
    """Packed frame (N, 3 s^2, H/s, W/s) -> features at H/s, H/2s, H/4s and the head (N, 2, H/4s, W/4s) in [0, 1]."""

    def __init__(self, preset: Preset) -> None:
        super().__init__(preset)
        self.head_mix = _conv(preset.channels[2], HEAD_CHANNELS)
        self.head_out = _conv(HEAD_CHANNELS, 2)
        self.guide = Guide(preset.guide) if preset.guide else None
        if preset.guide:
            self.guided = _conv(3, preset.channels[0])

    def forward(self, packed: Tensor) -> Features:
        return self.features(packed, self.guidance(packed))

    def guidance(self, packed: Tensor) -> Tensor | None:
        """What the guide, if there is one, says (N, 3, H/2, W/2)."""
        return self.guide(packed) if self.guide else None

    def features(self, packed: Tensor, guidance: Tensor | None) -> Features:
        """The same with what ``guidance`` returned."""
        f0, f1, f2 = self.look(packed, None if guidance is None else self.guided(guidance))
        return f0, f1, f2, torch.sigmoid(self.head_out(F.relu(self.head_mix(f2))))


class HumanAwareNet(nn.Module):
    """The whole function: RGB frame in [0, 1] (N, 3, H, W), any size -> restored frame and what led to it."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.encoder = Encoder(preset)
        self.foreground = Branch(preset)
        self.background = Branch(preset)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        keep_variance(self)
        for module in self.modules():
            if isinstance(module, Trunk):
                whiten_stem(module.stem, self.preset.pack)
            elif isinstance(module, ResidualBlock):
                module.second.weight.mul_(0.1)  # depth starts harmless
            elif isinstance(module, Branch):
                module.up1.project.weight.mul_(0.5)  # what comes from below starts as a hint
                module.up0.project.weight.mul_(0.3)
                assert module.up0.project.bias is not None
                module.up0.project.bias.fill_(1.0)  # a factor starts as 1
                module.out.weight.zero_()  # an untrained network is the identity

    def packed(self, image: Tensor) -> Tensor:
        """RGB frame (N, 3, H, W) of any size -> what the encoder reads, padded (N, 3 s^2, H/s, W/s)."""
        return pack(pad_to_multiple(image, self.preset.multiple), self.preset.pack)

    def forward(self, image: Tensor, strength: float = 1.0) -> Output:
        return self.decode(image, self.encoder(self.packed(image)), strength)

    def decode(self, image: Tensor, features: Features, strength: float = 1.0) -> Output:
        """Both branches, and the frame with their residuals blended in."""
        f0, f1, f2, head = features
        fg, bg = self.foreground(f0, f1, f2), self.background(f0, f1, f2)
        return Output(blend(image, head, fg, bg, self.preset.pack, strength), head, fg, bg)
