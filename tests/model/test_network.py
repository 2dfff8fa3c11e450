# SPDX-License-Identifier: Apache-2.0
"""The network against its own promises: cost, shapes, the blend's special cases, weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from crispstream.errors import EngineError, UsageError
from crispstream.model.network import HumanAwareNet
from crispstream.model.pixels import blend, halving, pack, pad_to_multiple, spreading
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import load_network, save_weights


def counted_macs(net: HumanAwareNet, height: int, width: int) -> dict[str, float]:
    """Multiply-accumulates per pixel of every part, counted while the network runs."""
    totals = dict.fromkeys(("encoder", "foreground", "background"), 0.0)

    def count(part: str):  # type: ignore[no-untyped-def]
        def hook(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
            totals[part] += module.weight.numel() * output.shape[-2] * output.shape[-1] / (height * width)

        return hook

    for part in totals:
        for module in getattr(net, part).modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(count(part))
    with torch.inference_mode():
        net(torch.zeros(1, 3, height, width))
    return totals


@pytest.mark.parametrize("name", PRESETS)
def test_macs_by_part_budget_and_split(name: str) -> None:
    size = preset(name)
    stated = size.macs_per_pixel()
    assert counted_macs(HumanAwareNet(size), 64, 96) == pytest.approx(stated)
    total = sum(stated.values())
    assert 0.85 * size.budget <= total <= size.budget
    assert stated["encoder"] <= 0.4 * total


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 35), (1, 1)])
def test_any_size_and_untrained_is_the_identity(name: str, height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        output = HumanAwareNet(preset(name))(image)
    assert torch.equal(output.image, image)
    stride = preset(name).map_stride
    padded = [-(-n // preset(name).multiple) * preset(name).multiple for n in (height, width)]
    assert output.head.shape == (2, 2, padded[0] // stride, padded[1] // stride)
    assert float(output.head.min()) >= 0 and float(output.head.max()) <= 1
    assert output.foreground.shape == (2, 12, padded[0] // 2, padded[1] // 2)


def test_only_fp16_safe_layers() -> None:
    allowed = {"Conv2d", "Sequential", "ResidualBlock", "Upsample", "Modulation", "Trunk", "Guide", "Encoder", "Branch"}
    allowed |= {"HumanAwareNet"}
    assert {type(m).__name__ for m in HumanAwareNet(preset("base")).modules()} <= allowed


def test_pack_inverts_and_pads_by_replication() -> None:
    image = torch.rand(1, 3, 5, 6)
    padded = pad_to_multiple(image, 8)
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[..., 5:, :6], image[..., 4:5, :].expand(-1, -1, 3, -1))
    assert torch.equal(torch.nn.functional.pixel_shuffle(pack(padded, 4), 4), padded)


def test_halving_and_spreading_are_averaging_and_the_inverse_of_pack() -> None:
    image = torch.rand(2, 3, 16, 24)
    halved = F.conv2d(pack(image, 2), halving(), stride=2)
    torch.testing.assert_close(halved, pack(F.avg_pool2d(image, 2), 2))
    assert torch.equal(F.conv_transpose2d(pack(image, 2), spreading(), stride=2), image)


class TestBlend:
    def setup_method(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(1, 3, 13, 14, generator=generator)
        self.head = torch.rand(1, 2, 2, 2, generator=generator)
        self.foreground, self.background = torch.randn(2, 1, 48, 4, 4, generator=generator)

    def test_gate_zero_or_strength_zero_or_no_branch_leaves_the_frame(self) -> None:
        shut = self.head.clone()
        shut[:, 1] = 0
        assert torch.equal(blend(self.image, shut, self.foreground, self.background, 4), self.image)
        assert torch.equal(blend(self.image, self.head, self.foreground, self.background, 4, 0.0), self.image)
        assert torch.equal(blend(self.image, self.head, None, None, 4), self.image)

    def test_a_missing_branch_is_a_constant_mask(self) -> None:
        for mask, branches in ((0.0, (None, self.background)), (1.0, (self.foreground, None))):
            flat = self.head.clone()
            flat[:, 0] = mask
            whole = blend(self.image, flat, self.foreground, self.background, 4)
            torch.testing.assert_close(blend(self.image, self.head, *branches, 4), whole)

    def test_what_is_not_finite_costs_sharpness_only(self) -> None:
        broken = self.foreground.clone()
        broken[0, 5, 1, 1] = float("nan")
        broken[0, 6, 1, 1] = float("inf")
        got = blend(self.image, self.head, broken, self.background, 4)
        good = blend(self.image, self.head, self.foreground, self.background, 4)
        differs = (got != good).sum()
        assert torch.isfinite(got).all() and int(differs) == 2
        assert torch.equal(got[got != good], self.image[got != good])

    def test_mask_gain_and_bias(self) -> None:
        inverted = self.head.clone()
        inverted[:, 0] = 1 - inverted[:, 0]
        torch.testing.assert_close(
            blend(self.image, self.head, self.foreground, self.background, 4, 1.0, -1.0, 1.0),
            blend(self.image, inverted, self.foreground, self.background, 4),
        )


def test_weights_survive_the_disk_in_fp16(tmp_path: Path) -> None:
    net = HumanAwareNet(preset("nano"))
    save_weights(net, tmp_path / "w.safetensors")
    loaded = load_network(preset("nano"), tmp_path / "w.safetensors")
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(EngineError, match="cannot read"):
        load_network(preset("nano"), path)
    path.write_bytes(b"not weights")
    with pytest.raises(EngineError, match="cannot read"):
        load_network(preset("nano"), path)
    net = HumanAwareNet(preset("nano"))
    save_weights(net, path)
    with pytest.raises(EngineError, match="does not hold the weights of preset 'small'"):
        load_network(preset("small"), path)
    state = load_file(path)
    state["encoder.stem.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, path)
    with pytest.raises(EngineError, match=r"encoder.stem.weight .* not finite"):
        load_network(preset("nano"), path)
    with torch.no_grad():
        net.encoder.stem.weight[0] = 1e6
    with pytest.raises(EngineError, match="not finite in FP16"):
        save_weights(net, path)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown preset 'huge'") as error:
        preset("huge")
    assert "nano" in error.value.hint
