# SPDX-License-Identifier: Apache-2.0
"""Does each choice pay? ``python -m training.ablate --data DIR --pairs DIR --steps 500 --seeds 0 1 --json FILE``.

Trains variants of `nano` with equal steps, equal data and about equal multiply-accumulates, on one thread. A run that
is done is added to the JSON file and not done again. docs/ablations.md says what was found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crispstream.metrics import psnr
from crispstream.model.network import HumanAwareNet
from training.dataset import HighSpeedSet, PhotoSet, read_manifest
from training.evaluate import BORDER, restore
from training.loss import total_loss
from training.measures import NEARLY_SHARP, align
from training.samples import oriented
from training.schedule import rate_at
from training.synthesis import Batch
from training.testsets import Sample, read_pairs
from training.train import follow, gain
from training.variants import VARIANTS, Variant, optimizer, plain, trainable

SYNTHESISED, HIGH_SPEED, HELD_OUT = 150, 75, 6
"""Batches of 16 samples that are kept, of each kind."""
SIZE, HELD_OUT_SIZE, LONGEST = 128, 192, 24.0
CROP, BATCH, REAL_SHARE = 96, 12, 0.4
"""Of a training step: pixels a side, crops, and the share of them that is real blur."""
FIGURES = ("gain", "person", "background", "iou", "pairs")

Cache = dict[str, Batch]


def _codes(batches: Iterator[Batch]) -> Batch:
    """All in one, pictures and maps as 8-bit codes."""
    joined = [torch.cat(field) for field in zip(*batches, strict=True)]
    return Batch(*(field if field.dtype == torch.bool else field.mul(255).round().byte() for field in joined))


def _floats(batch: Batch) -> Batch:
    return Batch(*(field if field.dtype == torch.bool else field.float().div(255) for field in batch))


def samples(data: Path, file: Path) -> Cache:
    """``photographs``, ``high_speed`` and ``validation`` as 8-bit codes; synthesised once, then read from ``file``.

    Raises FileNotFoundError where ``data`` has no photographs of a split or no high-speed frames.
    """
    stored = torch.load(file) if file.exists() else {}
    if {tuple(fields) for fields in stored.values()} != {Batch._fields}:  # nothing yet, or labels have been added
        cpu = torch.device("cpu")
        photos, held_out = (PhotoSet(read_manifest(data, split)) for split in ("train", "val"))
        films = [HighSpeedSet(folder) for folder in sorted(data.glob("*240"))]
        if not films:
            raise FileNotFoundError(f"no folder of high-speed frames (*240) under {data}")
        longest = np.random.default_rng(0).uniform(5, LONGEST, SYNTHESISED)
        stored = {
            "photographs": _codes(photos.batch(16, SIZE, float(long), i, cpu) for i, long in enumerate(longest)),
            "high_speed": _codes(films[i % len(films)].batch(16, SIZE, i, cpu) for i in range(HIGH_SPEED)),
            "validation": _codes(held_out.batch(16, HELD_OUT_SIZE, 16.0, 7_000_000 + i, cpu) for i in range(HELD_OUT)),
        }
        stored = {name: batch._asdict() for name, batch in stored.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(stored, file)
    return {name: Batch(**fields) for name, fields in stored.items()}


def draw(cache: Cache, variant: Variant, seed: int, step: int) -> Batch:
    """The batch of a step: the same pictures, crops and turns for every variant that learns from the same data."""
    rng = np.random.default_rng((seed, step))
    kinds = ["high_speed" if real and variant.real else "photographs" for real in rng.random(BATCH) < REAL_SHARE]
    places = [int(place * len(cache[kind].blurry)) for place, kind in zip(rng.random(BATCH), kinds, strict=True)]
    top, left = rng.integers(SIZE - CROP + 1, size=2)
    fields = []
    for index in range(len(Batch._fields)):
        field = torch.stack([cache[kind][index][place] for kind, place in zip(kinds, places, strict=True)])
        if field.ndim == 4:
            field = field[..., top : top + CROP, left : left + CROP]
        fields.append(field)
    mask, gate = variant.labels
    batch = oriented(_floats(Batch(*fields)), int(rng.integers(4)), bool(rng.integers(2)))
    return batch._replace(mask_known=batch.mask_known & mask, gate_known=batch.gate_known & gate)


def train(variant: Variant, seed: int, steps: int, cache: Cache, compiled: bool) -> HumanAwareNet:
    """The averaged weights, as a network of bare convolutions in evaluation mode."""
    torch.manual_seed(seed)
    net = trainable(variant)
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    forward = torch.compile(net, dynamic=False) if compiled else net
    optimiser = optimizer(net, variant)
    highest = optimiser.rate
    for step in range(steps):
        batch = draw(cache, variant, seed, step)
        optimiser.rate = rate_at(step, steps, highest)
        loss = total_loss(forward(batch.blurry.contiguous(memory_format=torch.channels_last)), batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimiser.step()
        follow(average, net, step)
    net.load_state_dict(average)
    return plain(net)


@torch.no_grad()
def macs_per_pixel(net: HumanAwareNet) -> float:
    """Multiply-accumulates of all convolutions that run, per pixel of the frame."""
    counts: list[int] = []

    def count(conv: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        counts.append(conv.weight[0].numel() * out.numel())

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    net(torch.zeros(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    return sum(counts) / 128**2


@torch.inference_mode()
def judged(net: HumanAwareNet, validation: Batch, mask_known: bool) -> dict[str, float]:
    """Gain in dB over the validation pictures, inside and outside people, and the person mask's overlap (IoU)."""
    batches = [_floats(Batch(*(f[i : i + 8] for f in validation))) for i in range(0, len(validation.blurry), 8)]
    regions: tuple[list[Tensor], list[Tensor]] = ([], [])
    common = either = 0
    for batch in batches:
        output = net(batch.blurry)
        errors = [(p - batch.sharp).square().mean(1, keepdim=True) for p in (batch.blurry, output.image.clamp(0, 1))]
        for weight, gains in zip((batch.mask, 1 - batch.mask), regions, strict=True):
            before, after = ((e * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1) for e in errors)
            counts = batch.mask_known & (batch.mask.mean((1, 2, 3)) > 0.03) & (batch.mask.mean((1, 2, 3)) < 0.97)
            gains.append((10 * torch.log10(before / after))[counts & (before > 10 ** (-NEARLY_SHARP / 10))])
        seen = F.interpolate(output.head[:, :1], size=batch.mask.shape[-2:], mode="bilinear") > 0.5
        seen, true = seen[batch.mask_known], batch.mask[batch.mask_known] > 0.5
        common, either = common + int((seen & true).sum()), either + int((seen | true).sum())
    person, background = (float(torch.cat(gains).mean()) for gains in regions)
    found = {"gain": gain(net, batches), "person": person, "background": background}
    return found | ({"iou": common / max(either, 1)} if mask_known else {})


def real_gain(net: HumanAwareNet, pairs: list[Sample]) -> float:
    """Mean PSNR gain in dB over real pairs whose truth is aligned, a border cut, as training.evaluate has it."""
    inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    shown = [(p.blurred[inner], restore(net, p.blurred).picture[inner], p.sharp[inner]) for p in pairs]
    return float(np.mean([psnr(restored, sharp) - psnr(blurred, sharp) for blurred, restored, sharp in shown]))


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown, a row a variant, best gain first: means over its seeds, plus and minus half of their range."""
    grouped = [[run for run in runs if run["variant"] == name] for name in VARIANTS]
    rows = sorted(filter(None, grouped), key=lambda own: -float(np.mean([run["gain"] for run in own])))
    lines = ["| variant | seeds | MAC a pixel | " + " | ".join(FIGURES) + " |", "| --- " * (3 + len(FIGURES)) + "|"]
    for own in rows:
        cells = []
        for figure in FIGURES:
            found = [run[figure] for run in own if figure in run]
            sign = "" if figure == "iou" else "+"
            spread = f" ± {(max(found) - min(found)) / 2:.3f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):{sign}.3f}{spread}" if found else "")
        lines.append(
            f"| {VARIANTS[own[0]['variant']].what} | {len(own)} | {own[0]['macs']:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def ablate(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All runs with ``arguments.steps`` steps, those of earlier calls too; each is written as soon as it is done."""
    torch.set_num_threads(1)
    cache = samples(arguments.data, arguments.cache)
    pairs = list(read_pairs(arguments.pairs)) if arguments.pairs else []
    pairs = [pair._replace(sharp=align(pair.sharp, pair.blurred)) for pair in pairs]
    runs = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    done = {(run["variant"], run["seed"], run["steps"]) for run in runs}
    for seed, name in itertools.product(arguments.seeds, arguments.only):
        if (name, seed, arguments.steps) in done:
            continue
        variant, began = VARIANTS[name], time.monotonic()
        net = train(variant, seed, arguments.steps, cache, arguments.compile)
        minutes = round((time.monotonic() - began) / 60, 1)
        figures = judged(net, cache["validation"], variant.labels[0])
        figures |= {"pairs": real_gain(net, pairs)} if pairs else {}
        run = {"variant": name, "seed": seed, "steps": arguments.steps, "macs": macs_per_pixel(net)}
        runs.append(run | {k: round(v, 4) for k, v in figures.items()} | {"minutes": minutes})
        arguments.json.write_text("[\n" + ",\n".join(f"  {json.dumps(r)}" for r in runs) + "\n]\n")
        print(runs[-1], flush=True)
    return [run for run in runs if run["steps"] == arguments.steps]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder with manifest.csv (runs/data)")
    parser.add_argument("--pairs", type=Path, help="folder of real pairs to measure too")
    parser.add_argument("--cache", type=Path, default=Path("runs/ablate.pt"), help="file for the samples (0.8 GB)")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile")
    parser.add_argument("--json", type=Path, required=True, help="results, one object a run")
    try:
        print(table(ablate(parser.parse_args())))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
