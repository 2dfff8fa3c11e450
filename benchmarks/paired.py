# SPDX-License-Identifier: Apache-2.0
"""A measurement beside its limit: the two take turns, so that a disturbance of the machine hits both."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

LEAST_ROUNDS, MOST_ROUNDS = 5, 200


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """``call``, which then gives the seconds that it took."""

    def run() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return run


class Paired:
    """``benchmark``: pytest-benchmark's fixture; ``seconds``: for a measurement, which has LEAST_ROUNDS at least."""

    def __init__(self, benchmark: Any, seconds: float) -> None:
        self._benchmark, self._seconds = benchmark, seconds

    def __call__(
        self, work: Callable[[], object], limit: Callable[[], float], name: str, rounds: int | None = None
    ) -> dict[str, Any]:
        """Run ``limit``, ``work``, ``limit``, ..., and return ``extra_info``, to be added to.

        ``limit`` gives the seconds that ``work`` would take at its limit, which is called ``name``. ``extra_info``
        holds ``cost``: time over limit, the mean of those before and after; and ``limit_seconds``; both are medians.
        ``rounds``: as many as the seconds allow where it is not given.
        """
        found: dict[str, Any] = self._benchmark.extra_info
        if self._benchmark.disabled:
            limit()
            self._benchmark.pedantic(work)
            return found
        start = perf_counter()
        limit()
        work()
        fitting = int(self._seconds / (perf_counter() - start))
        limits: list[float] = []
        self._benchmark.pedantic(
            work,
            setup=lambda: limits.append(limit()),
            rounds=rounds or min(max(fitting, LEAST_ROUNDS), MOST_ROUNDS),
        )
        limits.append(limit())
        pairs = zip(self._benchmark.stats.stats.data, limits[:-1], limits[1:], strict=True)
        found["limit"] = name
        found["cost"] = median(2 * time / (before + after) for time, before, after in pairs)
        found["limit_seconds"] = median(limits)
        return found
