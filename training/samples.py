# SPDX-License-Identifier: Apache-2.0
"""The batch of every step, from seed and step alone, synthesised ahead of time on the training device."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.dataset import HighSpeedSet, PhotoSet, read_manifest
from training.motion import DIRECTIONS
from training.schedule import Shape, shape_at
from training.synthesis import Batch

POOL_BATCHES = 24
AHEAD = 8
SOFTNESS = 0.5
SHORTEST, LONGEST, GROWTH = 5.0, 16.0, 32.0
"""Pixels: a batch's longest blur is drawn from SHORTEST to LONGEST at first, and to GROWTH more in the end."""


class Maker:
    """Synthesises the batch of an index; depends on the seed alone, so that any thread may do it."""

    def __init__(self, data: Path, seed: int, device: torch.device) -> None:
        self.photos = PhotoSet(read_manifest(data, "train"), SOFTNESS)
        self.high_speed = [HighSpeedSet(folder) for folder in sorted(data.glob("*240"))]
        self.seed, self.device = seed, device

    def make(self, index: int, shape: Shape, progress: float) -> Batch:
        """``progress`` in [0, 1]: blur grows with it. Two of five batches are real blur where there are such frames."""
        seed = self.seed * 1_000_003 + index
        if self.high_speed and index % 5 in (1, 3):
            frames = self.high_speed[index // 5 % len(self.high_speed)]
            return frames.batch(shape.crops, shape.size, seed, self.device)
        longest = np.random.default_rng(seed).uniform(SHORTEST, LONGEST + GROWTH * progress)
        return self.photos.batch(shape.crops, shape.size, float(longest), seed, self.device)


_maker: Maker


def _begin(data: Path, seed: int, device: torch.device) -> None:
    global _maker
    torch.set_num_threads(1)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _maker = Maker(data, seed, device)


def _end_with(parent: BaseProcess) -> None:
    """Trainers are killed, and nobody else would end a worker that waits for work."""
    parent.join()
    os._exit(1)


def _make(index: int, shape: Shape, progress: float) -> Batch:
    return _maker.make(index, shape, progress)


def _workers(data: Path, seed: int, device: torch.device) -> Executor:
    """On a CPU another process: compiled training holds Python's lock. GPU memory cannot leave its process."""
    if device.type == "cpu":
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (data, seed, device))
    _begin(data, seed, device)
    return ThreadPoolExecutor(4, "samples", torch.set_num_threads, (1,))


class SampleStream:
    """Batches for every step. Each synthesised batch stays in a pool and is used ``reuse`` times in other company and
    orientation, because synthesis can cost more than a training step. Other workers synthesise ahead."""

    def __init__(self, data: Path, total: int, full: Shape, reuse: int, seed: int, device: torch.device) -> None:
        self.total, self.full, self.reuse, self.seed = total, full, reuse, seed
        self._workers = _workers(data, seed, device)
        self._coming: dict[int, Future[Batch]] = {}
        self._pool: dict[int, Batch] = {}

    def _shape(self, index: int) -> Shape:
        return shape_at(index * self.reuse, self.total, self.full)

    def _take(self, index: int) -> Batch:
        for ahead in range(index, index + AHEAD):
            if ahead not in self._coming:
                progress = min(1.0, ahead * self.reuse / self.total)
                self._coming[ahead] = self._workers.submit(_make, ahead, self._shape(ahead), progress)
        return self._coming.pop(index).result()

    def batch(self, step: int) -> Batch:
        """The batch of one step; depends on seed and step only."""
        newest = step // self.reuse
        shape = self._shape(newest)
        wanted = [i for i in range(max(0, newest - POOL_BATCHES + 1), newest + 1) if self._shape(i) == shape]
        self._pool = {i: self._pool[i] if i in self._pool else self._take(i) for i in wanted}
        rng = np.random.default_rng((self.seed, step))
        picks = [(wanted[rng.integers(len(wanted))], int(rng.integers(shape.crops))) for _ in range(shape.crops)]
        parts = [torch.stack([self._pool[b][field][i] for b, i in picks]) for field in range(len(Batch._fields))]
        return oriented(Batch(*parts), int(rng.integers(4)), bool(rng.integers(2)))

    def close(self) -> None:
        """End the workers."""
        self._workers.shutdown(cancel_futures=True)


def oriented(batch: Batch, turn: int, flip: bool) -> Batch:
    """Everything in ``batch`` turned by ``turn`` quarters and then mirrored, the directions of motion with it."""
    order = [(-d if flip else d) + turn * DIRECTIONS // 2 for d in range(DIRECTIONS)]
    turned = batch._replace(motion=batch.motion[:, [d % DIRECTIONS for d in order]])
    return Batch(*(_orient(field, turn, flip) if field.ndim == 4 else field for field in turned))


def _orient(x: Tensor, turn: int, flip: bool) -> Tensor:
    x = torch.rot90(x, turn, (2, 3))
    return (x.flip(3) if flip else x).contiguous()
