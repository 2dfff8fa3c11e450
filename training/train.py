# SPDX-License-Identifier: Apache-2.0
"""Train a preset: ``python -m training.train --preset nano --data DIR --steps 20000 --minutes 60``.

Time-boxed and resumable: ``--minutes`` ends a session, ``--steps`` is what the cosine schedule stretches over, the
checkpoint in the run folder is taken up again when it is there. The same seed gives the same samples.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import save_weights
from training import checkpoint
from training.dataset import HighSpeedSet, PhotoSet, read_manifest
from training.headroom import with_headroom
from training.loss import total_loss
from training.synthesis import Batch

POOL_BATCHES = 24
AHEAD = 4
AVERAGE_DECAY = 0.999


class Maker:
    """Synthesises the batch of an index; depends on the seed alone, so that any process may do it."""

    def __init__(self, data: Path, count: int, size: int, seed: int, device: torch.device) -> None:
        self.photos = PhotoSet(read_manifest(data, "train"))
        self.high_speed = [HighSpeedSet(folder) for folder in sorted(data.glob("*240"))]
        self.count, self.size, self.seed, self.device = count, size, seed, device

    def make(self, index: int, progress: float) -> Batch:
        """``progress`` in [0, 1]: blur grows with it."""
        seed = self.seed * 1_000_003 + index
        if self.high_speed and index % 5 == 4:
            return self.high_speed[index // 5 % len(self.high_speed)].batch(self.count, self.size, seed, self.device)
        longest = np.random.default_rng(seed).uniform(4, 16 + 12 * progress)
        return self.photos.batch(self.count, self.size, float(longest), seed, self.device)


_maker: Maker | None = None


def _start_worker(*arguments: Any) -> None:
    global _maker
    torch.set_num_threads(1)
    _maker = Maker(*arguments)


def _make_in_worker(index: int, progress: float) -> Batch:
    assert _maker is not None
    return _maker.make(index, progress)


class SampleStream:
    """Batches for every step. Each synthesised batch stays in a pool and is used ``reuse`` times in other company and
    orientation, because on a CPU synthesis costs more than a training step. On a CPU a second process synthesises."""

    def __init__(self, data: Path, count: int, size: int, reuse: int, seed: int, device: torch.device) -> None:
        self.count, self.reuse, self.seed = count, reuse, seed
        made_by = (data, count, size, seed, device)
        self._maker = None if device.type == "cpu" else Maker(*made_by)
        self._worker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_worker, made_by)
        self._coming: dict[int, Future[Batch]] = {}
        self._pool: list[Batch] = []
        self._made = -1

    def _take(self, index: int, step_share: float) -> Batch:
        if self._maker is not None:
            return self._maker.make(index, index * step_share)
        for ahead in range(index, index + AHEAD):
            if ahead not in self._coming:
                self._coming[ahead] = self._worker.submit(_make_in_worker, ahead, ahead * step_share)
        return self._coming.pop(index).result()

    def batch(self, step: int, total: int) -> Batch:
        """The batch of one step; depends on seed and step only."""
        newest = step // self.reuse
        for index in range(max(self._made + 1, newest - POOL_BATCHES + 1), newest + 1):
            self._pool = [*self._pool, self._take(index, self.reuse / total)][-POOL_BATCHES:]
        self._made = newest
        rng = np.random.default_rng((self.seed, step))
        picks = [(int(rng.integers(len(self._pool))), int(rng.integers(self.count))) for _ in range(self.count)]
        parts = [torch.stack([self._pool[b][field][i] for b, i in picks]) for field in range(len(Batch._fields))]
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        return Batch(*(_orient(p, turn, flip) if p.ndim == 4 else p for p in parts))

    def close(self) -> None:
        """End the second process."""
        self._worker.shutdown(cancel_futures=True)


def _orient(x: Tensor, turn: int, flip: bool) -> Tensor:
    x = torch.rot90(x, turn, (2, 3))
    return (x.flip(3) if flip else x).contiguous()


def gain(net: HumanAwareNet, batches: list[Batch]) -> float:
    """Mean PSNR gain in dB over the blurred input, per picture, on 8-bit-range clamped output."""
    gains = []
    with torch.inference_mode():
        for batch in batches:
            restored = net(batch.blurry).image.clamp(0, 1)
            before = (batch.blurry - batch.sharp).square().mean((1, 2, 3)).clamp(min=1e-7)
            after = (restored - batch.sharp).square().mean((1, 2, 3)).clamp(min=1e-7)
            moving = before > 1e-6
            gains.append(10 * torch.log10(before / after)[moving])
    return float(torch.cat(gains).mean())


def recipe(arguments: argparse.Namespace, progress: checkpoint.Progress) -> dict[str, Any]:
    """What the weights were made from, for the manifest (``python -m crispstream.export --training``)."""
    photos = read_manifest(arguments.data, "train")
    return {
        "photographs": len(photos),
        "with_person_mask": sum(photo.is_person for photo in photos),
        "high_speed_frames": sum(len(HighSpeedSet(folder).frames) for folder in sorted(arguments.data.glob("*240"))),
        "steps": progress.step,
        "minutes": round(progress.seconds / 60, 1),
        "device": str(arguments.device),
        **{name: getattr(arguments, name) for name in ("batch", "crop", "rate", "reuse", "seed")},
        "validation_gain_db": progress.curve,
    }


def train(arguments: argparse.Namespace) -> checkpoint.Progress:
    """Run one session and write weights and checkpoint to the run folder."""
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    net = HumanAwareNet(preset(arguments.preset)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=arguments.rate, weight_decay=1e-4, betas=(0.9, 0.99))
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    progress = checkpoint.Progress(arguments.preset)
    arguments.run.mkdir(parents=True, exist_ok=True)
    stored = arguments.run / "checkpoint.safetensors"
    if stored.exists():
        progress = checkpoint.load(stored, net, average, optimizer)
    samples = SampleStream(arguments.data, arguments.batch, arguments.crop, arguments.reuse, arguments.seed, device)
    validation = PhotoSet(read_manifest(arguments.data, "val"))
    held_out = [validation.batch(8, 192, 16.0, 7_000_000 + i, device) for i in range(6)]
    judge = HumanAwareNet(net.preset).to(device).eval()

    began = saved = time.monotonic()
    deadline = began + arguments.minutes * 60
    running = 0.0

    def keep() -> None:
        nonlocal began
        now = time.monotonic()
        progress.seconds, began = progress.seconds + now - began, now
        judge.load_state_dict(average)
        progress.curve.append((progress.step, round(gain(judge, held_out), 3)))
        checkpoint.save(stored, progress, net, average, optimizer)
        save_weights(with_headroom(judge), arguments.run / "weights.safetensors")
        (arguments.run / "training.json").write_text(json.dumps(recipe(arguments, progress), indent=2) + "\n")
        print(
            f"step {progress.step}/{arguments.steps}  loss {running:.5f}  validation {progress.curve[-1][1]:+.3f} dB  "
            f"{progress.seconds / 60:.1f} min",
            flush=True,
        )

    last = min(arguments.steps, arguments.stop_after)
    while progress.step < last and time.monotonic() < deadline:
        fraction = progress.step / arguments.steps
        warm = min(1.0, (progress.step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
        batch = samples.batch(progress.step, arguments.steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = net(batch.blurry.contiguous(memory_format=torch.channels_last))
        loss = total_loss(output, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        if torch.isfinite(norm):
            optimizer.step()
        progress.step += 1
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        with torch.no_grad():
            decay = min(AVERAGE_DECAY, (1 + progress.step) / (10 + progress.step))
            for name, value in net.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        if time.monotonic() - saved > arguments.save_minutes * 60:
            keep()
            saved = time.monotonic()
    samples.close()
    keep()
    return progress


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--run", type=Path, help="folder for checkpoint and weights (default: runs/PRESET)")
    parser.add_argument("--steps", type=int, default=20_000, help="length of the whole schedule")
    parser.add_argument("--minutes", type=float, default=1e9, help="length of this session")
    parser.add_argument("--stop-after", type=int, default=10**9, help="end this session at that step")
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128, help="pixels, a multiple of 16")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--reuse", type=int, default=4, help="how many steps see each synthesised batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the training process; 1 where the machine is busy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    arguments.run = arguments.run or Path("runs") / arguments.preset
    train(arguments)


if __name__ == "__main__":
    main()
