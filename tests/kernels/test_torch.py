# SPDX-License-Identifier: Apache-2.0
"""The twin computes what PyTorch's operators, which the network is trained with, compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import random_frame

from crispstream.frame import ColorSpec, Frame, PixelFormat
from crispstream.kernels import reference
from crispstream.kernels.geometry import Geometry
from crispstream.model import pixels

SIZES = [(1, 1), (16, 16), (37, 21), (64, 48)]


def picture(width: int, height: int) -> tuple[Frame, torch.Tensor]:
    """A frame and the same picture as (1, 3, H, W) RGB in [0, 1]."""
    frame = random_frame(np.random.default_rng(width), PixelFormat.RGB24, (width, height), ColorSpec())
    rgb = torch.from_numpy(np.ascontiguousarray(frame.planes[0])).permute(2, 0, 1)[None]
    return frame, rgb.float() / 255


@pytest.mark.parametrize("pack", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_unpack_is_pad_and_pixel_unshuffle(size: tuple[int, int], pack: int) -> None:
    geometry = Geometry.for_size(*size, pack=pack, multiple=16, map_stride=8)
    frame, image = picture(*size)
    packed = np.empty(geometry.packed_shape, np.float32)
    reference.unpack(frame, geometry, packed)
    right, below = geometry.padded_width - size[0], geometry.padded_height - size[1]
    expected = F.pixel_unshuffle(F.pad(image, (0, right, 0, below), mode="replicate"), pack)
    assert np.abs(packed - expected.numpy()).max() < 1e-6


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("cells", [(1, 1), (1, 4), (3, 1), (5, 7)])
def test_maps_are_upsampled_like_interpolate(cells: tuple[int, int], stride: int) -> None:
    values = np.random.default_rng(0).random(cells, np.float32)
    expected = F.interpolate(
        torch.from_numpy(values)[None, None], scale_factor=float(stride), mode="bilinear", align_corners=False
    )
    assert np.abs(reference._upsample_map(values, stride) - expected[0, 0].numpy()).max() < 1e-6


@pytest.mark.parametrize("missing", ["nothing", "foreground", "background", "both"])
@pytest.mark.parametrize(("pack", "stride"), [(2, 4), (4, 8), (4, 16)])
@pytest.mark.parametrize("size", SIZES)
def test_blend_is_the_specification(size: tuple[int, int], pack: int, stride: int, missing: str) -> None:
    """Not rounded, the twin's residual is the specification's: 255 x + 255 d differs by less than half a code."""
    geometry = Geometry.for_size(*size, pack=pack, multiple=16, map_stride=stride)
    frame, image = picture(*size)
    rng = np.random.default_rng(3)
    head = rng.random(geometry.head_shape, np.float32)
    foreground, background = (rng.normal(0, 0.1, geometry.packed_shape).astype(np.float32) for _ in range(2))
    first = None if missing in ("foreground", "both") else foreground
    second = None if missing in ("background", "both") else background
    out = frame.empty_like()
    reference.blend(frame, geometry, head, first, second, out, strength=1.5, mask_gain=0.5, mask_bias=0.25)
    tensors = [None if r is None else torch.from_numpy(r) for r in (first, second)]
    expected = pixels.blend(image, torch.from_numpy(head), *tensors, pack, 1.5, 0.5, 0.25)
    codes = 255 * expected[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(out.planes[0] - codes).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_statistics_are_average_pooling(stride: int) -> None:
    geometry = Geometry.for_size(90, 50, pack=2, multiple=16, map_stride=stride)
    head = np.random.default_rng(4).random(geometry.head_shape, np.float32)
    mask, gate = torch.from_numpy(head[0])
    side = 16 // stride
    expected = [F.avg_pool2d((gate * m)[None, None], side).max().item() for m in (mask, 1 - mask)]
    assert reference.statistics(geometry, head) == pytest.approx(expected, abs=1e-6)


def test_statistics_average_what_the_last_cells_have() -> None:
    geometry = Geometry.for_size(20, 20, pack=2, multiple=4, map_stride=4)
    head = np.zeros(geometry.head_shape, np.float32)
    head[0, :, 4, 4] = (0.75, 0.5)
    assert reference.statistics(geometry, head) == (0.375, 0.125)
    head[0, 1, 4, 4] = np.inf
    assert reference.statistics(geometry, head) == (0.0, 0.0)
