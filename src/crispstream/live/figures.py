# SPDX-License-Identifier: Apache-2.0
"""Figures of a stream that may run for weeks: bounded in memory, safe between threads."""

from __future__ import annotations

import threading
from collections import deque
from math import exp, floor, log
from time import monotonic

RECENT_SECONDS = 10.0
_RECENT_VALUES = 2048
_SHORTEST = 1e-4
_STEP = log(1.05)
_BUCKETS = 280  # 0.1 ms to 82 s, and what is longer


class Latency:
    """Durations in seconds: percentiles of the last RECENT_SECONDS, and of everything to within 5%."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_VALUES)
        self._counts = [0] * _BUCKETS
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = floor(log(max(seconds, _SHORTEST) / _SHORTEST) / _STEP)
        with self._lock:
            self._recent.append((monotonic(), seconds))
            self._counts[min(bucket, _BUCKETS - 1)] += 1
            self._longest = max(self._longest, seconds)

    def recent(self) -> dict[str, float | None]:
        """Milliseconds: p50, p95, p99, max of the last RECENT_SECONDS; None where there is nothing."""
        since = monotonic() - RECENT_SECONDS
        with self._lock:
            values = sorted(seconds for at, seconds in self._recent if at >= since)
        if not values:
            return dict.fromkeys(("p50", "p95", "p99", "max"))
        picks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: _ms(values[min(len(values) - 1, floor(share * len(values)))]) for name, share in picks.items()}

    def overall(self) -> dict[str, float | None]:
        """Milliseconds: p50, p95, p99 of everything (the middle of a bucket of 5%), and the exact maximum."""
        with self._lock:
            counts, longest = list(self._counts), self._longest
        total = sum(counts)
        if not total:
            return dict.fromkeys(("p50", "p95", "p99", "max"))
        found: dict[str, float | None] = {}
        for name, share in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
            passed = 0
            for bucket, count in enumerate(counts):
                passed += count
                if passed >= share * total:
                    found[name] = _ms(min(longest, _SHORTEST * exp((bucket + 0.5) * _STEP)))
                    break
        return {**found, "max": _ms(longest)}


class Rate:
    """Events, in all and per second of the last RECENT_SECONDS."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=_RECENT_VALUES)
        self.count = 0

    def add(self) -> None:
        """Count one event."""
        with self._lock:
            self.count += 1
            self._times.append(monotonic())

    def per_second(self) -> float:
        """Mean rate from the first event of the last RECENT_SECONDS up to now."""
        now = monotonic()
        with self._lock:
            times = [at for at in self._times if at >= now - RECENT_SECONDS]
        if len(times) < 2:
            return 0.0
        # Intervals between events, unless none has come for longer than they are apart.
        span = max(times[-1] - times[0], (now - times[0]) * (len(times) - 1) / len(times))
        return round((len(times) - 1) / span, 2) if span > 0 else 0.0


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
