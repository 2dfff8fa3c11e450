# SPDX-License-Identifier: Apache-2.0
"""What is aimed at, what a run measured, and whether it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.sizes import SIZES
from benchmarks.stored import Benchmark, Run

SMT_GAIN = 1.5
"""Two cores give a plain convolution more than this; two hardware threads of one core give it less."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. ``values``: what was measured, by case; all of them must keep the aim."""

    figure: str
    aim: str
    values: dict[str, float]
    kept: Callable[[float], bool]

    @property
    def reached(self) -> bool:
        """Whether every value keeps the aim."""
        return all(self.kept(value) for value in self.values.values())

    def line(self) -> str:
        """Markdown."""
        shown = ", ".join(f"{value:.2f} ({case})" if case else f"{value:.2f}" for case, value in self.values.items())
        return f"| {self.figure} | {self.aim} | {shown} | {'reached' if self.reached else '**missed**'} |"


def rows(run: Run) -> Iterator[Row]:
    """The aims of docs/performance.md. Raises InputError where the run lacks a benchmark."""
    for preset in ("nano", "small", "base"):
        found = run.all("test_engine", preset=preset, precision="fp32", branches="both", threads=2)
        shares = {one["params"]["size"]: 1 / one["cost"] for one in found}
        yield Row(
            f"GMAC/s of the engine, `{preset}`, over the reference convolution's", ">= 0.8", shares, at_least(0.8)
        )
    for kernel in ("unpack", "blend"):
        yield Row(f"{kernel}, rate over a copy's", ">= 0.6", _ends(run.all(f"test_{kernel}")), at_least(0.6))
    stages = run.all("test_stages", preset="nano", precision="fp32")
    parts = {one["params"]["size"]: one["kernels_of_engine"] for one in stages}
    yield Row("unpack and blend over `nano`'s engine, time", "<= 0.06", parts, at_most(0.06))
    memory = run.one("test_memory_to_memory", precision="fp32", size=SIZES[1])
    yield Row("memory to memory over the engine alone, frames a second", ">= 0.92", _value(memory), at_least(0.92))
    films = {one["params"]["size"]: 1 / one["cost"] for one in run.all("test_film")}
    yield Row("film to film over the bound of its stages, frames a second", ">= 0.9", films, at_least(0.9))
    per_pixel = [1.0, *(float(one["cost"]) for one in run.all("test_pixel"))]
    spread = {f"{SIZES[0]} to {SIZES[-1]}": max(per_pixel) / min(per_pixel)}
    yield Row("cost of a pixel, largest over smallest", "<= 1.15", spread, at_most(1.15))
    ratios = run.one("test_gating")["ratios"]
    yield Row("engine without people over both branches, time", "<= 0.77", {"": ratios["no people"]}, at_most(1 / 1.3))
    yield Row("engine without blur over both branches, time", "<= 0.40", {"": ratios["sharp"]}, at_most(1 / 2.5))
    for preset in ("nano", "small", "base"):
        gains = {size: _gain(run, preset, size) for size in SIZES[:2]}
        yield Row(f"two threads over one, `{preset}`, frames a second", ">= 1.8", gains, at_least(1.8))
    start = run.one("test_import")
    extra = start["seconds"]["median"] - start["limit_seconds"]
    yield Row("`import crispstream`, seconds beyond Python's own", "<= 0.25", {"": extra}, at_most(0.25))
    first = run.one("test_first_frame")["seconds"]["median"]
    yield Row("`crispstream run`, seconds to the first frame", "<= 1.5", {SIZES[0]: first}, at_most(1.5))
    fused = run.one("test_parts")["cost"]
    yield Row("three parts over the fused graph, time", "<= 1.05", {SIZES[0]: fused}, at_most(1.05))


def at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


def about_threads(run: Run) -> str:
    """What two threads can give on this machine: a sentence."""
    gain = min(_gain(run, "convolution", size) for size in SIZES[:2])
    told = run.machine["siblings"]
    shared = [group for group in told if "," in group or "-" in group]
    measured = f"the reference convolution itself gains {gain:.2f} from a second thread"
    if shared:
        return f"Hardware threads {' and '.join(shared)} share a core, as Linux tells; {measured}."
    if gain < SMT_GAIN and run.machine["virtual"]:
        return (
            f"Linux in this virtual machine tells of {len(told)} cores, but {measured}: "
            "they behave as hardware threads of one core, on which 1.8 is out of reach."
        )
    if not told:
        return f"Linux does not tell which hardware threads share a core; {measured}."
    return f"Linux tells of {len(told)} cores; {measured}."


def _gain(run: Run, preset: str, size: str) -> float:
    return 1 / float(run.one("test_two_threads", preset=preset, size=size)["cost"])


def _value(one: Benchmark) -> dict[str, float]:
    return {one["params"]["size"]: 1 / one["cost"]}


def _ends(found: list[Benchmark]) -> dict[str, float]:
    """The least and the greatest share of the limit."""
    ordered = sorted(found, key=lambda one: -float(one["cost"]))
    return {_case(one): 1 / one["cost"] for one in (ordered[0], ordered[-1])}


def _case(one: Benchmark) -> str:
    params = one["params"]
    return f"{params['size']} {params['pixel_format']}, {params['threads']} thread{'s' * (params['threads'] > 1)}"
