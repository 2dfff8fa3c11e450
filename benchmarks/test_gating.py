# SPDX-License-Identifier: Apache-2.0
"""A clip of mixed content with gating on and off, frame by frame; and what gating makes of photographs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.clips import PARTS, mixed
from benchmarks.conftest import BACKENDS
from benchmarks.sizes import SIZES, pixels
from crispstream.deblurrer import Deblurrer, DeblurStream
from crispstream.demo import Picture
from crispstream.frame import Frame, PixelFormat
from crispstream.gating import QUIET_FRAMES, SLOTS

PLAYS = 3
FRAMES = 40
"""Of each part; after a cut, gating waits for QUIET_FRAMES of them."""
WITHOUT_PEOPLE = ("coffee", "rocket", "chelsea", "hubble_deep_field", "grass", "gravel", "brick", "coins")
"""Photographs of scikit-image."""
WIDTH = 320


@pytest.fixture
def deblurrers() -> Iterator[tuple[Deblurrer, Deblurrer]]:
    """With gating and without."""
    with (
        Deblurrer("nano", "cpu", backend=BACKENDS["fp32"]) as gated,
        Deblurrer("nano", "cpu", backend=BACKENDS["fp32"], gating=False) as whole,
    ):
        yield gated, whole


class Watched:
    """A stream; ``process`` tells of a frame the engine's seconds and which branches it got."""

    def __init__(self, deblurrer: Deblurrer) -> None:
        self._stats = deblurrer.stats
        self._stream: DeblurStream = deblurrer.open_stream()

    def process(self, frame: Frame) -> tuple[float, str]:
        seconds, variants = self._stats.seconds["engine"], self._stats.variants.copy()
        self._stream.process(frame)
        (variant,) = self._stats.variants - variants
        return self._stats.seconds["engine"] - seconds, variant


def test_gating(benchmark: Any, deblurrers: tuple[Deblurrer, Deblurrer], seconds: float) -> None:
    clip = mixed(pixels(SIZES[0]), FRAMES if seconds else SLOTS)
    plays: list[list[tuple[float, float]]] = []
    variants: list[str] = []

    def play() -> None:
        gated, whole = map(Watched, deblurrers)
        variants.clear()
        plays.append([])
        for _, frame in clip:
            took, variant = gated.process(frame)
            variants.append(variant)
            plays[-1].append((took, whole.process(frame)[0]))

    benchmark.pedantic(play, rounds=PLAYS if seconds else 1, warmup_rounds=0)
    found = benchmark.extra_info
    frames = [tuple(median(times) for times in zip(*frame, strict=True)) for frame in zip(*plays, strict=True)]
    found["seconds_by_frame"] = {"gated": [frame[0] for frame in frames], "whole": [frame[1] for frame in frames]}
    found["variants"], found["parts"] = list(variants), [part for part, _ in clip]
    # Once gating has settled.
    ratios: dict[str, list[float]] = {part: [] for part in PARTS}
    for played in plays:
        for index, ((part, _), (gated, whole)) in enumerate(zip(clip, played, strict=True)):
            if index % FRAMES >= FRAMES // 2 or not seconds:
                ratios[part].append(gated / whole)
    found["ratios"] = {part: median(values) for part, values in ratios.items()}
    found["limit"], found["limit_seconds"] = "both branches", sum(frame[1] for frame in frames)
    found["cost"] = median(sum(gated for gated, _ in played) / sum(whole for _, whole in played) for played in plays)


def test_photographs(benchmark: Any, deblurrers: tuple[Deblurrer, Deblurrer]) -> None:
    """Which branches sharp photographs without people get that stand still for long enough."""
    from skimage import data

    gated = deblurrers[0]
    found: dict[str, str] = {}

    def show() -> None:
        for name in WITHOUT_PEOPLE:
            stream = Watched(gated)
            frame = Frame.from_array(_scaled(np.asarray(getattr(data, name)())), PixelFormat.RGB24)
            for _ in range(QUIET_FRAMES + 2 * SLOTS + 4):
                found[name] = stream.process(frame)[1]

    benchmark.pedantic(show)
    benchmark.extra_info["variants"] = found
    assert set(found) == set(WITHOUT_PEOPLE)


def _scaled(picture: Picture) -> Picture:
    image = Image.fromarray(picture).convert("RGB")
    return np.asarray(image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS))
