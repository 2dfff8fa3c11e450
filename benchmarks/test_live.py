# SPDX-License-Identifier: Apache-2.0
"""A live stream, 640x360 at 25 frames a second: how much later than it was due a frame reaches the sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
import pytest

from benchmarks.clips import RATE, film
from benchmarks.conftest import BACKENDS
from benchmarks.limits import Convolution
from benchmarks.sizes import SIZES, pixels
from crispstream.live.engine import LiveEngine
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import Shot
from crispstream.live.session import LiveSession
from crispstream.manifest import load
from crispstream.runners.protocol import geometry_of
from crispstream.sources.paced import PacedSource
from crispstream.sources.video import VideoSource
from crispstream.threads import cpu_quota

SIZE = SIZES[0]
SECONDS = 12.0
BIN = 0.005
"""Seconds: the width of a bar of the distribution."""


class Ages:
    """A sink that notes how old each frame is when it comes, in seconds."""

    name = "memory"

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def write(self, shot: Shot) -> None:
        self.seconds.append(monotonic() - shot.captured)

    def close(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_live(
    benchmark: Any, preset_argument: Callable[[str, str], str], tmp_path: Path, seconds: float, precision: str
) -> None:
    path = film(tmp_path / "in.mp4", pixels(SIZE), 50)
    ages = Ages()
    preset = preset_argument("nano", precision)
    session = LiveSession(
        "film",
        lambda: PacedSource("film", lambda: VideoSource(path), loop=True),
        LiveEngine(preset, device="cpu", backend=BACKENDS[precision]),
        [Outlet("memory", lambda: ages, capacity=4)],
    )
    manifest = load(preset)
    convolution = Convolution(manifest, geometry_of(manifest, pixels(SIZE)), cpu_quota())
    limits = [convolution() for _ in range(5)]
    until = monotonic() + (SECONDS * min(1, seconds) or 1)

    def tick() -> None:
        if monotonic() > until:
            session.stop()

    benchmark.pedantic(session.run, args=(tick,))
    limits += [convolution() for _ in range(5)]
    summary, found = session.summary(), benchmark.extra_info
    found["latency"] = {f"p{p}": float(np.percentile(ages.seconds, p)) for p in (50, 95, 99)}
    bars = Counter(int(age / BIN) for age in ages.seconds)
    found["bars"] = {"width": BIN, "counts": [bars[i] for i in range(max(bars) + 1)]}
    found["frames"] = {**summary["frames"], "dropped": sum(summary["drops"].values()), "rate": float(RATE)}
    found["limit"], found["limit_seconds"] = "convolution", median(limits)
    found["cost"] = found["latency"]["p50"] / median(limits)
    assert ages.seconds
