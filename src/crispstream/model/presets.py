# SPDX-License-Identifier: Apache-2.0
"""Sizes of the network: channels, depth, and what they cost. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from crispstream.errors import UsageError

HEAD_CHANNELS = 24


@dataclass(frozen=True, slots=True)
class Preset:
    """One size of the network.

    ``pack``: space-to-depth factor s of the input. ``channels``: at 1/s, 1/2s and 1/4s of the frame.
    ``encoder_blocks``, ``branch_blocks``: residual blocks (two 3x3 convolutions each) at those three scales.
    ``context``: channels and blocks at 1/8s, where the encoder sees whole people.
    ``guide``: the network that first restores the picture at half its size, by its encoder and background branch; then
    both have ``pack`` 2.
    ``budget``: multiply-accumulates per pixel that the preset may cost, both branches on.
    """

    name: str
    pack: int
    channels: tuple[int, int, int]
    encoder_blocks: tuple[int, int, int]
    context: tuple[int, int]
    branch_blocks: tuple[int, int, int]
    budget: int
    guide: Preset | None = None

    @property
    def packed_channels(self) -> int:
        """Channels of the packed input and of each residual: 3 s^2."""
        return 3 * self.pack**2

    @property
    def ends_in_product(self) -> bool:
        """Whether a branch's last step is the product of modulation and one convolution, with no blocks between."""
        return not self.branch_blocks[0]

    @property
    def map_stride(self) -> int:
        """Pixels per cell of the head's map (the third scale)."""
        return 4 * self.pack

    @property
    def multiple(self) -> int:
        """Frames are padded to a multiple of this many pixels (the context's scale, the guide's where there is one)."""
        return 2 * self.guide.multiple if self.guide else 8 * self.pack

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates per frame pixel of each part. Convolutions that are learnt only; nothing else is worth
        counting."""
        trunk, head, branch = self._macs()
        if self.guide:
            guide, _, guide_branch = self.guide._macs()
            trunk += 9 * 3 * self.channels[0] / self.pack**2 + (guide + guide_branch) / 4
        return {"encoder": trunk + head, "foreground": branch, "background": branch}

    def _macs(self) -> tuple[float, float, float]:
        area = [1 / (self.pack << i) ** 2 for i in range(4)]
        c0, c1, c2 = self.channels
        deep, deep_blocks = self.context
        h = HEAD_CHANNELS
        block = [2 * 9 * c * c for c in self.channels]
        trunk = (
            area[0] * (9 * self.packed_channels * c0 + self.encoder_blocks[0] * block[0])
            + area[1] * (9 * c0 * c1 + self.encoder_blocks[1] * block[1])
            + area[2] * (9 * c1 * c2 + self.encoder_blocks[2] * block[2])
            + area[3] * (9 * c2 * deep + deep_blocks * 2 * 9 * deep * deep + deep * c2)
        )
        head = area[2] * (9 * c2 * h + 9 * h * 2)
        branch = (
            area[2] * (self.branch_blocks[2] * block[2] + c2 * c1)
            + area[1] * (self.branch_blocks[1] * block[1] + c1 * c0)
            + area[0] * (self.branch_blocks[0] * block[0] + 9 * c0 * self.packed_channels)
        )
        return trunk, head, branch


_NANO = Preset("nano", 2, (32, 48, 64), (0, 0, 0), (48, 2), (0, 0, 1), 8_000)
_SMALL = Preset("small", 2, (32, 48, 64), (1, 0, 0), (48, 2), (1, 0, 1), 24_000)
_BASE = Preset("base", 2, (32, 48, 64), (2, 0, 0), (48, 2), (2, 1, 1), 46_000, _SMALL)

PRESETS = {p.name: p for p in (_NANO, _SMALL, _BASE)}


def preset(name: str) -> Preset:
    """The preset called ``name``. Raises UsageError naming the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"unknown preset '{name}'", f"known presets: {', '.join(PRESETS)}") from None
