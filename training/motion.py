# SPDX-License-Identifier: Apache-2.0
"""Random camera and body motion during one exposure, as affine maps that are the identity at mid-exposure; how far it
moves each pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIRECTIONS = 4
"""0, 45, 90 and 135 degrees from the row, down the picture: what `extents` measures along."""

SHAKE = 0.15
"""Share of the paths that shake."""

ACCELERATION = 0.5
"""Standard deviation of the logarithm by which the speed differs between mid-exposure and either end."""


def random_paths(count: int, times: int, extent: Tensor, generator: torch.Generator) -> Tensor:
    """Translation paths (count, times, 2) in pixels, (0, 0) at the middle sample, largest displacement = extent / 2.

    ``times`` is odd, ``extent`` (count,) pixels. Most are straight or nearly so and at nearly even speed, as what moves
    in a video frame does within its exposure; some are arcs; SHAKE of them random shake (integrated Gaussian velocity,
    as hand-held cameras show over longer exposures).
    """
    t = torch.linspace(-1, 1, times)
    angle = torch.rand(count, 1, generator=generator) * (2 * math.pi)
    bend = (torch.rand(count, 1, generator=generator) * 2 - 1) ** 3 * math.pi
    speed = (torch.randn(count, 1, generator=generator) * ACCELERATION * t).exp()
    heading = angle + bend * t
    velocity = torch.stack((heading.cos(), heading.sin()), -1) * speed[..., None]
    shake = torch.cumsum(torch.randn(count, times, 2, generator=generator), 1) / math.sqrt(times)
    drift = torch.randn(count, 1, 2, generator=generator)
    shakes = torch.rand(count, 1, 1, generator=generator) < SHAKE
    velocity = torch.where(shakes, shake + drift, velocity)
    path = torch.cumsum(velocity, 1)
    path = path - path[:, times // 2 : times // 2 + 1]
    reach = path.norm(dim=-1).amax(1).clamp(min=1e-6)
    scaled: Tensor = path * (extent / 2 / reach)[:, None, None]
    return scaled


def random_affine(
    count: int, times: int, extent: Tensor, size: int, generator: torch.Generator, turning: float = 1.0
) -> Tensor:
    """Maps (count, times, 2, 3) from output to source pixels, centred on a ``size`` pixel square.

    ``extent`` (count,) is the blur length in pixels; rotation and zoom add at most ``turning`` times half of it at the
    square's edge. Extent 0 gives exact identities.
    """
    path = random_paths(count, times, extent, generator)
    t = torch.linspace(-1, 1, times)
    limit = (extent / 2 * turning / size)[:, None]
    rotation = (torch.rand(count, 1, generator=generator) * 2 - 1) * limit * t
    zoom = 1 + (torch.rand(count, 1, generator=generator) * 2 - 1) * limit * t
    cos, sin = rotation.cos() * zoom, rotation.sin() * zoom
    rows = torch.stack((torch.stack((cos, -sin, path[..., 0]), -1), torch.stack((sin, cos, path[..., 1]), -1)), -2)
    return rows


def pixel_grid(size: int, device: torch.device) -> Tensor:
    """Homogeneous coordinates (3, size, size) of pixel centres, measured from the middle of the square."""
    axis = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    return torch.stack(
        (axis.expand(size, size), axis[:, None].expand(size, size), torch.ones_like(axis).expand(size, size))
    )


def extents(maps: Tensor, size: int) -> Tensor:
    """Pixels that each pixel moves along DIRECTIONS under ``maps`` (N, T, 2, 3): (N, DIRECTIONS, size, size).

    T positions at even distances over L pixels have the variance L^2 / 12 (T + 1) / (T - 1) along them; the extent is
    the L of the variance that the motion has, so that shake and arcs have one too.
    """
    angle = torch.arange(DIRECTIONS, device=maps.device) * (math.pi / DIRECTIONS)
    along = torch.stack((angle.cos(), angle.sin()), -1)
    moved = torch.einsum("ntik,di->ntdk", maps - maps.mean(1, keepdim=True), along)
    # The variance at a pixel is a quadratic form of its coordinates.
    form = torch.einsum("ntdk,ntdl->ndkl", moved, moved) / maps.shape[1]
    grid = pixel_grid(size, maps.device)
    variance = torch.einsum("ndkl,khw,lhw->ndhw", form, grid, grid)
    times = maps.shape[1]
    return (12 * (times - 1) / (times + 1) * variance).clamp(min=0).sqrt()
