# SPDX-License-Identifier: Apache-2.0
"""Frames with the times, clocks and tags that damaged films have, into every sink."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np

from crispstream.frame import Frame, PixelFormat, plane_shapes
from crispstream.pipeline import Processor, run_pipeline
from crispstream.sinks.raw import RawSink
from crispstream.sinks.sequence import SequenceSink
from crispstream.sinks.video import VideoSink
from crispstream.tags import VideoTags

FARTHEST = 2**63
TIMES = (0, 1, -1, 2, 512, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, FARTHEST - 1, -FARTHEST, -(2**31), 10**12)
TICKS = (1, 2, 25, 1000, 12800, 90000, 10**6, 10**9, 2**31 - 1)
RATES = (25, 25, 2, Fraction(30000, 1001), 120, 10**6, Fraction(1, 10**6), 2**31 - 1, Fraction(1, 2**31 - 1))
ASPECTS = (None, None, Fraction(1), Fraction(16, 11), Fraction(2**31 - 1), Fraction(1, 2**31 - 1))
MATRICES = (None, None, (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), (0,) * 9, (2**31 - 1,) * 9, (-(2**31),) * 9)


class _Given:
    """A source of frames that are there already."""

    total = None

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def close(self) -> None:
        pass


def frames(rng: Random) -> list[Frame]:
    """Four of them, 32x32."""
    clock = Fraction(rng.choice((1, 1, 1, 1001, 2**31 - 1)), rng.choice(TICKS))
    codes = [rng.choice((0, 1, 2, 9, 16, 18, 255)) for _ in range(3)]
    aspect, matrix = rng.choice(ASPECTS), rng.choice(MATRICES)
    tags = VideoTags(codes[0], rng.randrange(3), codes[1], codes[2], rng.randrange(7), aspect, matrix)
    first, step = rng.choice((0, 0, *TIMES)), rng.choice((1, 1, 40, 512, *TIMES))
    made = []
    for index in range(4):
        planes = tuple(np.full(s, 50 + index, np.uint8) for s in plane_shapes(PixelFormat.I420, 32, 32))
        time = first + index * step if rng.random() < 0.8 else rng.choice(TIMES)
        pts = None if rng.random() < 0.1 else max(-FARTHEST, min(time, FARTHEST - 1))
        duration = rng.choice((None, 1, 512, 2**31, 2**62))
        made.append(Frame(planes, PixelFormat.I420, tags.color(32), pts, clock, duration, info={"video_tags": tags}))
    return made


def write(rng: Random, folder: Path, deblurrer: Processor) -> tuple[int, list[str]]:
    """Frames written into ``folder``, and what was said of them; none where a reader cannot be asked for all."""
    name = rng.choice(("out.mp4", "out.mov", "out.mkv", "out.webm", "out.ts", "out.y4m", "%d.png"))
    rate, given = Fraction(rng.choice(RATES)), frames(rng)
    sink: VideoSink | RawSink | SequenceSink
    if name == "out.y4m":
        sink = RawSink(folder / name, rate=rate)
    elif name == "%d.png":
        sink = SequenceSink(folder / name)
    else:
        encoder = rng.choice((None, "mpeg4")) if name != "out.webm" else None
        sink = VideoSink(folder / name, rate=rate, encoder=encoder)
    try:
        stats = run_pipeline(_Given(given), deblurrer, [sink])
    finally:
        sink.abort()
    clock = given[0].time_base
    # FFmpeg itself loses its way in clocks of more than a second.
    is_sane = clock is not None and clock <= 1 and rate > Fraction(1, 100)
    return stats.frames_out if is_sane else -1, sink.warnings
