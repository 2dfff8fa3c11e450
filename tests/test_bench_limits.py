# SPDX-License-Identifier: Apache-2.0
"""``benchmarks``: the limits move and compute what they say, and a cost is a ratio of neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import limits
from benchmarks.machine import machine
from benchmarks.paired import LEAST_ROUNDS, Paired, timed
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import load


class Clock:
    """pytest-benchmark's fixture as far as ``Paired`` knows it; the n-th round of a work takes ``times[n]``."""

    def __init__(self, times: list[float], disabled: bool = False) -> None:
        self.times, self.disabled = times, disabled
        self.extra_info: dict[str, Any] = {}
        self.order: list[str] = []

    def pedantic(self, work: Callable[[], object], setup: Callable[[], None] = lambda: None, rounds: int = 1) -> None:
        for _ in range(rounds):
            setup()
            work()
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=self.times[:rounds]))

    def work(self) -> None:
        self.order.append("work")

    def limit_of(self, seconds: list[float]) -> Callable[[], float]:
        def limit() -> float:
            self.order.append("limit")
            return seconds.pop(0)

        return limit


def test_a_cost_is_the_median_of_paired_ratios() -> None:
    """A machine that becomes four times slower on the way does not change it."""
    clock = Clock([2.0, 2.0, 8.0])
    found = Paired(clock, 1.0)(clock.work, clock.limit_of([9, 1, 1, 1, 4]), "a limit", rounds=3)
    assert clock.order == ["limit", "work"] * 4 + ["limit"]
    assert found == {"limit": "a limit", "cost": pytest.approx(2.0), "limit_seconds": 1.0}


def test_rounds_that_fit() -> None:
    clock = Clock([1.0] * 500)
    Paired(clock, 0.0)(clock.work, lambda: 1.0, "a limit")
    assert clock.order.count("work") == 1 + LEAST_ROUNDS


def test_without_measuring_both_run_once() -> None:
    clock = Clock([1.0], disabled=True)
    assert Paired(clock, 1.0)(clock.work, clock.limit_of([1.0]), "a limit") == {}
    assert clock.order == ["limit", "work"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_moves_what_it_says(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    copied: list[int] = []
    copyto = np.copyto

    def note(target: Any, source: Any) -> None:
        copied.append(target.nbytes + source.nbytes)
        copyto(target, source)

    monkeypatch.setattr(limits, "ROTATED_BYTES", 5000)
    copy = limits.Copy(1000, threads)
    monkeypatch.setattr(np, "copyto", note)
    assert copy() > 0
    assert sum(copied) == 1000 and len(copied) == threads


def test_buffers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROTATED_BYTES", 5000)
    sets = limits.rotation(1000, object)
    first = [next(sets) for _ in range(5)]
    assert len(set(first)) == 5 and next(sets) is first[0]


def test_the_reference_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first scale's pixels, and no more than fit; its rate is what counts."""
    nano = load("nano")
    geometry = Geometry.for_size(64, 48, pack=nano.pack, multiple=nano.multiple, map_stride=nano.map_stride)
    convolution = limits.Convolution(nano, geometry, 1)
    assert convolution.macs == 9 * 64 * 64 * 32 * 24
    monkeypatch.setattr(limits.Convolution, "__call__", lambda self: 0.5)
    assert convolution.seconds(3 * convolution.macs) == pytest.approx(1.5)
    monkeypatch.setattr(limits, "MOST_PIXELS", 32 * 10)
    assert limits.Convolution(nano, geometry, 1).macs == 9 * 64 * 64 * 32 * 10


def test_the_machine_is_not_named() -> None:
    told = machine()
    assert {"cpu", "vector_level", "threads", "onnxruntime", "numpy", "crispstream", "siblings"} <= told.keys()
    assert str(Path.home()) not in str(told)


def test_timed() -> None:
    assert timed(lambda: None)() >= 0
