# SPDX-License-Identifier: Apache-2.0
"""Train a preset: ``python -m training.train --preset nano --data DIR --steps 20000 --minutes 9``.

Time-boxed and resumable: ``--minutes`` ends a session, start-up included; ``--steps`` is what the cosine schedule
stretches over; the run folder's checkpoint is taken up again when it is there. The same seed gives the same samples.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crispstream.errors import CrispStreamError
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import PRESETS, preset
from crispstream.model.weights import save_weights
from training import checkpoint
from training.curves import save_curves
from training.dataset import HighSpeedSet, PhotoSet, read_manifest
from training.headroom import with_headroom
from training.loss import taught_loss
from training.measures import NEARLY_SHARP
from training.normalised import folded
from training.optimizer import MuonAdam
from training.samples import SampleStream
from training.schedule import Shape, rate_at
from training.supervised import supervised
from training.synthesis import Batch

AVERAGE_DECAY = 0.999
CURVE_POINTS = 400
VALIDATION = Shape(192, 8)
VALIDATION_BATCHES = 6
MOMENTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def gain(net: HumanAwareNet, batches: list[Batch]) -> float:
    """Mean PSNR gain in dB over the blurred input, per picture, on 8-bit-range clamped output."""
    gains = []
    with torch.inference_mode():
        for batch in batches:
            restored = net(batch.blurry).image.clamp(0, 1)
            before = (batch.blurry - batch.sharp).square().mean((1, 2, 3)).clamp(min=1e-7)
            after = (restored - batch.sharp).square().mean((1, 2, 3)).clamp(min=1e-7)
            moving = before > 10 ** (-NEARLY_SHARP / 10)
            gains.append(10 * torch.log10(before / after)[moving])
    return float(torch.cat(gains).mean())


@torch.no_grad()
def follow(average: dict[str, Tensor], net: nn.Module, step: int) -> None:
    """Move the average of the weights towards those after ``step`` updates, faster in the beginning."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)


class Trainer:
    """One session of training: network, optimiser, moving average, progress, and the folder they are kept in."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Raises InputError when a checkpoint is asked for and is not whole, FileNotFoundError without photographs."""
        self.began = time.monotonic()
        self.arguments = arguments
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(automatic if arguments.device == "auto" else arguments.device)
        torch.manual_seed(arguments.seed)
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        torch.backends.cudnn.benchmark = True  # three crop sizes; a CUDA session is not bit for bit repeatable anyway
        self.net = supervised(preset(arguments.preset)).to(self.device)
        self.shadow = deepcopy(self.net)
        # The same function, compiled (g++ or Triton): on a CPU a step takes a third of the time.
        self.forward = torch.compile(self.net, dynamic=False) if arguments.compile else self.net
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimizer = MuonAdam(self.net, arguments.rate)
        self.progress = checkpoint.Progress(arguments.preset)
        self.folder = arguments.run / "checkpoint"
        resume = arguments.resume or (arguments.run if (self.folder / checkpoint.INDEX).exists() else None)
        if resume is not None:
            self.progress = checkpoint.load(checkpoint.find(resume), self.net, self.average, self.optimizer)
        self.loss = torch.tensor(self.progress.loss, device=self.device)
        self.counted = self.began
        validation = PhotoSet(read_manifest(arguments.data, "val"))
        size, count = VALIDATION
        self.held_out = [
            validation.batch(count, size, 16.0, 7_000_000 + i, self.device) for i in range(VALIDATION_BATCHES)
        ]

    def step(self, batch: Batch) -> None:
        """One update of the weights and of their average; a gradient that is not finite is left out."""
        progress = self.progress
        self.optimizer.rate = rate_at(progress.step, self.arguments.steps, self.arguments.rate)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            taught = self.forward(batch.blurry.contiguous(memory_format=torch.channels_last))
        loss = taught_loss(taught, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        progress.step += 1
        if torch.isfinite(norm):
            self.optimizer.step()
            progress.updates += 1
            self.loss = loss.detach() if progress.updates == 1 else self.loss.lerp(loss.detach(), 0.02)
        follow(self.average, self.net, progress.step)
        if progress.step % max(1, self.arguments.steps // CURVE_POINTS) == 0:
            progress.losses.append((progress.step, round(self.loss.item(), 5)))

    def keep(self) -> None:
        """Judge the averaged weights on the validation split; write checkpoint, weights, recipe and curves."""
        progress, run = self.progress, self.arguments.run
        now = time.monotonic()
        progress.seconds, self.counted = progress.seconds + now - self.counted, now
        progress.loss = self.loss.item()
        self.shadow.load_state_dict(self.average)
        judged = folded(self.shadow.net)
        progress.gains.append((progress.step, round(gain(judged, self.held_out), 3)))
        moments = MOMENTS[self.arguments.moments]
        checkpoint.save(self.folder, progress, self.net, self.average, self.optimizer, moments)
        save_weights(with_headroom(judged), run / "weights.safetensors")
        (run / "training.json").write_text(json.dumps(recipe(self.arguments, self.device, progress), indent=2) + "\n")
        save_curves(run / "curves.png", progress)
        print(
            f"step {progress.step}/{self.arguments.steps}  loss {progress.loss:.5f}  "
            f"validation {progress.gains[-1][1]:+.3f} dB  {progress.seconds / 60:.1f} min  "
            f"{progress.updates / progress.seconds:.2f} steps/s",
            flush=True,
        )

    def run(self) -> checkpoint.Progress:
        """Train until the steps or the minutes are over; keep the state every few minutes and at the end."""
        arguments, progress = self.arguments, self.progress
        full = Shape(arguments.crop, arguments.batch)
        samples = SampleStream(arguments.data, arguments.steps, full, arguments.reuse, arguments.seed, self.device)
        deadline = self.began + arguments.minutes * 60
        kept = time.monotonic()
        try:
            while progress.step < min(arguments.steps, arguments.stop_after) and time.monotonic() < deadline:
                self.step(samples.batch(progress.step))
                if time.monotonic() - kept > arguments.save_minutes * 60:
                    self.keep()
                    kept = time.monotonic()
        finally:
            samples.close()
        self.keep()
        return progress


def recipe(arguments: argparse.Namespace, device: torch.device, progress: checkpoint.Progress) -> dict[str, Any]:
    """What the weights were made from, for the manifest (``python -m crispstream.export --training``)."""
    photos = read_manifest(arguments.data, "train")
    return {
        "photographs": len(photos),
        "with_person_mask": sum(photo.is_person for photo in photos),
        "high_speed_frames": sum(len(HighSpeedSet(folder).frames) for folder in sorted(arguments.data.glob("*240"))),
        "steps": progress.step,
        "updates": progress.updates,
        "minutes": round(progress.seconds / 60, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{name: getattr(arguments, name) for name in ("batch", "crop", "rate", "reuse", "seed")},
        "validation_gain_db": progress.gains,
    }


def train(arguments: argparse.Namespace) -> checkpoint.Progress:
    """Run one session and write checkpoint, weights, recipe and curves to the run folder."""
    arguments.run.mkdir(parents=True, exist_ok=True)
    return Trainer(arguments).run()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder with manifest.csv (runs/data)")
    parser.add_argument("--run", type=Path, help="folder for checkpoint and weights (default: runs/PRESET)")
    parser.add_argument("--resume", type=Path, help="run or checkpoint folder to go on from (default: --run, if begun)")
    parser.add_argument("--steps", type=int, default=20_000, help="length of the whole schedule")
    parser.add_argument("--minutes", type=float, default=1e9, help="length of this session")
    parser.add_argument("--stop-after", type=int, default=10**9, help="end this session at that step")
    parser.add_argument("--save-minutes", type=float, default=2)
    parser.add_argument(
        "--moments", choices=list(MOMENTS), default="bf16", help="of the gradient, as stored; fp32 is exact"
    )
    parser.add_argument(
        "--batch", type=int, default=8, help="crops per step in the last stage; more while they are small"
    )
    parser.add_argument("--crop", type=int, default=128, help="pixels in the last stage, a multiple of 32")
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--reuse", type=int, default=4, help="how many steps see each synthesised batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the training process; 1 where the machine is busy")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile")
    parser.add_argument("--device", default="auto", help="auto (cuda if there), cpu, cuda, cuda:1 ...")
    return parser


def main() -> None:
    """Command line."""
    arguments = parser().parse_args()
    arguments.run = arguments.run or Path("runs") / arguments.preset
    try:
        train(arguments)
    except (CrispStreamError, FileNotFoundError) as error:
        hint = getattr(error, "hint", "") or "pack photographs with python -m training.pack, or name them with --data"
        sys.exit(f"error: {error}\n{hint}")


if __name__ == "__main__":
    main()
