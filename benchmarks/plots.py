# SPDX-License-Identifier: Apache-2.0
"""The charts of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.chart import Chart, Point
from benchmarks.sizes import SIZES, area
from benchmarks.stored import Run
from crispstream.bench import STAGES
from crispstream.manifest import available_presets, load
from crispstream.model.presets import PRESETS

NAMES = {"fp32": "FP32", "int8": "INT8"}
SETS = {
    "real_pairs": "real pairs",
    "averaged_240fps": "240 fps averaged",
    "averaged_codes": "240 fps, codes averaged",
    "davis": "film of a dancer",
    "photographs": "photographs",
}
"""Of a manifest's quality figures."""


def _engine_seconds(run: Run, preset: str, precision: str) -> dict[str, float]:
    """Time of the whole engine with two threads, by size."""
    found = run.all("test_engine", preset=preset, precision=precision, branches="both", threads=2)
    return {one["params"]["size"]: one["seconds"]["median"] for one in found}


def cost_per_pixel(run: Run) -> Chart:
    """Nanoseconds a pixel against the frame's size; of ``nano``'s reference, too: the same multiply-accumulates."""
    lines = [("nano", "fp32"), ("nano", "int8"), ("small", "fp32")]  # base would press all others to the bottom
    found = {f"{preset} {NAMES[precision]}": _engine_seconds(run, preset, precision) for preset, precision in lines}
    whole = run.all("test_engine", preset="nano", precision="fp32", branches="both", threads=2)
    found["nano at its limit"] = {one["params"]["size"]: one["limit_seconds"] for one in whole}
    points: dict[str, list[Point]] = {
        name: [(SIZES.index(size), 1e9 * seconds / area(size)) for size, seconds in by_size.items()]
        for name, by_size in found.items()
    }
    highest = max(y for line in points.values() for _, y in line)
    chart = Chart(
        "Engine, two threads: cost of a pixel",
        "size of the frame",
        "ns a pixel",
        (-0.2, len(SIZES) - 0.8),
        (0, 1.1 * highest),
        list(enumerate(SIZES)),
    )
    for name, line in points.items():
        chart.line(name, line)
    return chart


def stages(run: Run) -> Chart:
    """Shares of a frame's time."""
    found = run.all("test_stages")
    totals = [sum(one["stages"].values()) for one in found]
    names = [
        f"{one['params']['preset']} {NAMES[one['params']['precision']]}\n{one['params']['size']}\n{1000 * total:.0f} ms"
        for one, total in zip(found, totals, strict=True)
    ]
    chart = Chart("What a frame's time is made of", "", "%", (-0.5, len(found) - 0.5), (0, 100), list(enumerate(names)))
    below = [0.0] * len(found)
    for stage in STAGES:
        boxes = []
        for i, one in enumerate(found):
            top = below[i] + 100 * one["stages"][stage] / totals[i]
            boxes.append((i - 0.35, i + 0.35, below[i], top))
            below[i] = top
        chart.bars(stage, boxes)
    return chart


def latency(run: Run) -> Chart:
    """How the ages of a live stream's frames are distributed."""
    lines: dict[str, list[Point]] = {}
    for one in run.all("test_live"):
        width, counts = 1000 * one["bars"]["width"], one["bars"]["counts"]
        name = f"{NAMES[one['params']['precision']]}, p99 {1000 * one['latency']['p99']:.0f} ms"
        lines[name] = [(0, 0)]
        for i, count in enumerate(counts):
            share = 100 * count / sum(counts)
            lines[name] += [(i * width, share), ((i + 1) * width, share)]
        lines[name].append((len(counts) * width, 0))
    xs, ys = ([point[axis] for line in lines.values() for point in line] for axis in (0, 1))
    title = "Live, nano, 640x360 at 25 frames a second: age of a frame in the sink"
    chart = Chart(title, "ms", "% of the frames", (0, max(xs)), (0, 1.1 * max(ys)))
    for name, line in lines.items():
        chart.line(name, line, dots=False)
    return chart


def quality() -> Chart:
    """Gain in PSNR of the presets against what they cost."""
    cost = {name: sum(found.macs_per_pixel().values()) / 1000 for name, found in PRESETS.items()}
    gains = {name: {key: one["gain"] for key, one in _quality(name).items()} for name in available_presets()}
    points = {key: [(cost[name], found[key]) for name, found in gains.items() if key in found] for key in SETS}
    highest = max(gain for line in points.values() for _, gain in line)
    title = "Gain in PSNR over the blurred frame, against what a pixel costs"
    chart = Chart(
        title, "thousand multiply-accumulates a pixel", "dB", (0, 1.5 * max(cost.values())), (0, 1.2 * highest)
    )
    for name, kilo in cost.items():
        missing = "" if name in gains else " (no weights)"
        chart.mark(kilo, name + missing)
    for key, line in points.items():
        chart.dots(SETS[key], line)
    return chart


def gating(run: Run) -> Chart:
    """The engine's time frame by frame on the mixed clip."""
    found = run.one("test_gating")
    by_frame, parts = found["seconds_by_frame"], found["parts"]
    highest = 1000 * max(map(max, by_frame.values()))
    title = "nano, 640x360, mixed content: the engine's time, frame by frame"
    chart = Chart(title, "frame", "ms", (0, len(parts)), (0, 1.15 * highest))
    for part in dict.fromkeys(parts):
        chart.mark(parts.index(part), part)
    for name, key in (("both branches", "whole"), ("gated", "gated")):
        chart.line(name, [(i, 1000 * seconds) for i, seconds in enumerate(by_frame[key])], dots=False)
    return chart


def save(run: Run, folder: Path) -> None:
    """Draw all charts into ``folder``, as performance-NAME.png."""
    drawn: dict[str, Callable[[], Chart]] = {
        "pixel": lambda: cost_per_pixel(run),
        "stages": lambda: stages(run),
        "latency": lambda: latency(run),
        "quality": quality,
        "gating": lambda: gating(run),
    }
    for name, draw in drawn.items():
        draw().save(folder / f"performance-{name}.png")


def _quality(preset: str) -> dict[str, dict[str, float]]:
    return {key: one for key, one in load(preset).quality.items() if key in SETS}
