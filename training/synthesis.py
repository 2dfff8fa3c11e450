# SPDX-License-Identifier: Apache-2.0
"""Blurry/sharp pairs from sharp photographs: camera and person move differently, light adds linearly.

The exposure is the mean over N sub-frames of ``alpha_t F_t + (1 - alpha_t) G_t`` in linear light or in what another
camera curve adds up (F the person layer with its moving alpha, G the background, filled in behind the person); the
target is the mid-exposure sub-frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.camera import degrade
from training.color import linear_light, random_gammas, to_light, to_linear, to_srgb
from training.motion import extents, pixel_grid, random_affine

AGREE, DIFFER = 2 / 255, 8 / 255
"""Change of the codes by blur, before noise, up to which the gate label is 0 and from which on it is 1."""

GATE_REACH = 9
"""Pixels, odd: side of the square over which the largest change counts, since blur changes no pixel mid-edge."""

FLAT_SHARE = 0.05
"""Share of samples without content: one colour or a faint slope, on which motion leaves no trace."""


STILL_SHARE = 0.12
"""Share of backgrounds, and of persons, that stand still: in a fifth of the samples something does."""

SHORTEST = 0.15
"""Shortest blur of what moves, as a share of the longest. Slight blur teaches little: a network that sees much of it
learns to sharpen a little everywhere, and nothing about direction."""

FILM_SHARE = 0.33
FEWEST, MOST = 7, 13
"""Share of batches whose exposures are of few sub-frames, and how many: so a film's frames, averaged, show copies."""

FARTHEST = 32.0
"""Pixels of motion that its label, in [0, 1], can tell apart."""

MARGIN = 2
"""Pixels by which the person layer is larger than its mask."""


class Batch(NamedTuple):
    """Training sample. ``blurry``, ``sharp`` (N, 3, S, S) sRGB in [0, 1]; ``mask``, ``gate`` (N, 1, S, S) labels in
    [0, 1]; ``motion`` (N, DIRECTIONS, S, S) labels, the extents in units of FARTHEST where the gate is open;
    ``mask_known``, ``gate_known`` (N,) bool: whether the label may be learnt from (that of motion where the gate's)."""

    blurry: Tensor
    sharp: Tensor
    mask: Tensor
    gate: Tensor
    motion: Tensor
    mask_known: Tensor
    gate_known: Tensor


def fill_behind(image: Tensor, keep: Tensor) -> Tensor:
    """Fill (N, C, H, W) where ``keep`` (N, 1, H, W) is 0 from its surroundings: a push-pull pyramid."""
    levels = [(image * keep, keep)]
    while min(levels[-1][1].shape[-2:]) > 1:
        value, weight = levels[-1]
        levels.append((F.avg_pool2d(value, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)))
    value, weight = levels[-1]
    coarse = value / weight.clamp(min=1e-6)
    for value, weight in reversed(levels[:-1]):
        coarse = F.interpolate(coarse, size=value.shape[-2:], mode="bilinear", align_corners=False)
        sure = (weight * 4).clamp(max=1)
        coarse = sure * (value / weight.clamp(min=1e-6)) + (1 - sure) * coarse
    return image * keep + coarse * (1 - keep)


def warp(image: Tensor, maps: Tensor, size: int) -> Tensor:
    """Sample (N, C, H, W) by affine maps (N, 2, 3) into a centred ``size`` square (N, C, size, size), bilinearly."""
    height, width = image.shape[-2:]
    points = torch.einsum("nij,jhw->nhwi", maps, pixel_grid(size, image.device))
    scale = torch.tensor([2 / width, 2 / height], device=image.device)
    return F.grid_sample(image, points * scale, mode="bilinear", padding_mode="reflection", align_corners=False)


def grow(alpha: Tensor) -> Tensor:
    """(N, 1, H, W): the largest value within MARGIN pixels.

    Masks end a pixel or two inside the person. The rim that they leave out would stay behind when the person moves, and
    the network would learn to remove outlines that no real blur has.
    """
    return F.max_pool2d(alpha, 2 * MARGIN + 1, 1, MARGIN)


def expose(light: Tensor, alpha: Tensor, camera: Tensor, person: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean exposure (N, 3, size, size) of light and the averaged alpha (N, 1, size, size).

    ``light`` (N, 3, H, W) of the sharp frame, ``alpha`` (N, 1, H, W) of its person layer, ``camera`` and ``person``
    (N, T, 2, 3) maps of the background and of the person. Where nothing moves the centre of ``light`` comes back.
    """
    behind = fill_behind(light, 1 - alpha)
    layer = torch.cat((light * alpha, alpha), 1)
    total = torch.zeros(*light.shape[:1], 4, size, size, device=light.device)
    for t in range(camera.shape[1]):
        front = warp(layer, person[:, t], size)
        back = warp(behind, camera[:, t], size)
        total += torch.cat((front[:, :3] + (1 - front[:, 3:]) * back, front[:, 3:]), 1)
    total /= camera.shape[1]
    return total[:, :3], total[:, 3:]


def _extents(count: int, longest: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blur lengths (background, person) in pixels: each layer stands still in one sample of eight."""
    length = longest * (SHORTEST + (1 - SHORTEST) * torch.rand(2, count, generator=generator))
    still = torch.rand(2, count, generator=generator) < STILL_SHARE
    length = torch.where(still, torch.zeros_like(length), length)
    return length[0], length[1]


def _sub_frames(longest: float, generator: torch.Generator) -> int:
    # Odd, so that the one in the middle is the sharp frame. Mostly less than two pixels apart unless it is a film's.
    smooth = 2 * int(min(max(longest * 0.6, 2), 20)) + 1
    few = 2 * int(torch.randint(FEWEST // 2, MOST // 2 + 1, (1,), generator=generator)) + 1
    return min(few, smooth) if torch.rand(1, generator=generator) < FILM_SHARE else smooth


def gate_label(blurred: Tensor, sharp: Tensor) -> Tensor:
    """Where blur can be seen: two (N, 3, H, W) of sRGB codes in [0, 1] without noise -> (N, 1, H, W) in [0, 1]."""
    change = (blurred - sharp).abs().amax(1, keepdim=True)
    reach = F.max_pool2d(change, GATE_REACH, 1, GATE_REACH // 2)
    return ((reach - AGREE) / (DIFFER - AGREE)).clamp(0, 1)


def flat_pictures(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, 3, height, width) sRGB: grey or coloured, half of them with a faint slope of brightness."""
    grey = torch.rand(count, 1, 1, 1, generator=generator)
    tint = (torch.rand(count, 3, 1, 1, generator=generator) - 0.5) * torch.rand(count, 1, 1, 1, generator=generator)
    slope = (torch.rand(count, 1, 2, 2, generator=generator) - 0.5) * 0.2
    slope = slope * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
    slope = F.interpolate(slope, size=(height, width), mode="bilinear", align_corners=True)
    return (grey + tint + slope).clamp(0, 1)


def raise_highlights(light: Tensor, photo: Tensor, boost: Tensor) -> Tensor:
    """``light`` (N, 3, H, W) times up to 1 + ``boost`` (N, 1, 1, 1) where ``photo`` (sRGB in [0, 1]) is clipped.

    Only there may the light have been brighter: the sharp picture looks the same as before.
    """
    clipped = ((to_linear(photo).amax(1, keepdim=True) - 0.97) / 0.03).clamp(0, 1)
    return light * (1 + boost * clipped)


def synthesise(
    photo: Tensor, alpha: Tensor, is_person: Tensor, mask_known: Tensor, size: int, longest: float, seed: int
) -> Batch:
    """Blur ``photo`` (N, 3, H, W; sRGB in [0, 1]; H, W >= size) and label it.

    ``alpha`` (N, 1, H, W) the moving layer, ``is_person`` (N,) whether that layer is a person, ``mask_known`` (N,)
    whether people outside the layer can be ruled out; ``longest`` blur length in pixels. The same seed gives the same
    batch. Runs on the device of ``photo``; motion is drawn on the CPU so that every device sees the same.
    """
    generator = torch.Generator().manual_seed(seed)
    count, device = photo.shape[0], photo.device
    times = _sub_frames(longest, generator)
    background, person = _extents(count, longest, generator)
    camera_maps = random_affine(count, times, background, size, generator)
    person_maps = random_affine(count, times, person, size, generator)
    together = torch.rand(count, generator=generator) < 0.33
    person_maps = torch.where(together[:, None, None, None], camera_maps, person_maps)

    flat = torch.rand(count, 1, 1, 1, generator=generator) < FLAT_SHARE
    empty = flat_pictures(count, photo.shape[2], photo.shape[3], generator)
    flat = flat.to(device)
    photo = torch.where(flat, empty.to(device), photo)
    alpha = torch.where(flat, torch.zeros_like(alpha), alpha)
    mask_known = mask_known | flat.flatten()

    gamma = random_gammas(count, generator).to(device)
    light = to_light(photo, gamma)
    boost = torch.rand(count, 1, 1, 1, generator=generator).to(device) * 2
    light = raise_highlights(light, photo, boost)

    mean, soft = expose(light, grow(alpha), camera_maps.to(device), person_maps.to(device), size)
    mean = linear_light(mean, gamma)
    sharp = to_srgb(linear_light(_centre(light, size), gamma))
    blurry = degrade(mean, generator)

    gate = gate_label(to_srgb(mean), sharp)
    unblurred = (gate.amax((1, 2, 3)) == 0)[:, None, None, None]
    # No blur to be seen: what is wrong with the picture is something else, so the right answer is the picture itself.
    target = torch.where(unblurred, blurry, sharp)
    mask = soft * is_person[:, None, None, None].to(soft.dtype)
    behind, front = (extents(maps.to(device), size) for maps in (camera_maps, person_maps))
    # Where the gate is shut nothing shows that anything moved.
    motion = gate * (behind.lerp(front, soft) / FARTHEST).clamp(max=1)
    return Batch(blurry, target, mask, gate, motion, mask_known, torch.ones_like(mask_known))


def _centre(image: Tensor, size: int) -> Tensor:
    top, left = (image.shape[-2] - size) // 2, (image.shape[-1] - size) // 2
    return image[..., top : top + size, left : left + size]
