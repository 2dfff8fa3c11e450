# SPDX-License-Identifier: Apache-2.0
"""Frames through the whole program: in memory beside the engine alone, in files beside what their stages cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from time import process_time

import pytest

from benchmarks.clips import film
from benchmarks.conftest import BACKENDS
from benchmarks.limits import Convolution
from benchmarks.paired import Paired, timed
from benchmarks.sizes import SIZES, pixels
from crispstream.bench import BLOCK_FRAMES, STAGES, Workload
from crispstream.deblurrer import Deblurrer
from crispstream.files import run
from crispstream.frame import Frame
from crispstream.runners.protocol import geometry_of
from crispstream.sources.video import VideoSource
from crispstream.threads import cpu_quota

FILM_FRAMES = {"640x360": 60, "1280x720": 24}
ROUNDS = 7

precisions = pytest.mark.parametrize("precision", ["fp32", "int8"])


@precisions
@pytest.mark.parametrize("size", SIZES[:2])
def test_memory_to_memory(
    paired: Paired, preset_argument: Callable[[str, str], str], size: str, precision: str
) -> None:
    with Workload(preset_argument("nano", precision), pixels(size), backend=BACKENDS[precision]) as work:
        paired(lambda: work.stream(BLOCK_FRAMES), timed(lambda: work.engine(BLOCK_FRAMES)), "engine")


@pytest.mark.parametrize(
    ("preset", "precision", "size"),
    [
        *(("nano", precision, size) for precision in ("fp32", "int8") for size in SIZES[:2]),
        ("small", "fp32", SIZES[0]),
        ("base", "fp32", SIZES[0]),
    ],
)
def test_stages(
    paired: Paired, preset_argument: Callable[[str, str], str], preset: str, precision: str, size: str
) -> None:
    """One frame after the other, each alone: its latency, and what it is made of."""
    latencies: list[float] = []
    with Workload(preset_argument(preset, precision), pixels(size), backend=BACKENDS[precision]) as work:
        manifest = work.runtime.manifest
        convolution = Convolution(manifest, geometry_of(manifest, pixels(size)), cpu_quota())
        found = paired(lambda: latencies.append(work.process()), convolution, "convolution")
        pairs = [(frame["unpack"] + frame["blend"], sum(frame.values())) for frame in work.stages]
        found["kernels_of_engine"] = median(kernels / (whole - kernels) for kernels, whole in pairs)
        found["stages"] = {name: median(frame[name] for frame in work.stages) for name in STAGES}
        found["latency"] = {"p50": median(latencies[1:] or latencies)}  # the first one warms up


class Passing:
    """A Deblurrer, its stream, and a frame under way, that leave every frame as it is."""

    def __init__(self, frame: Frame | None = None) -> None:
        self._frame = frame

    def open_stream(self) -> Passing:
        return self

    def submit(self, frame: Frame) -> Passing:
        return Passing(frame)

    def result(self) -> Frame:
        assert self._frame is not None
        return self._frame


@pytest.mark.parametrize("size", SIZES[:2])
def test_film(paired: Paired, tmp_path: Path, seconds: float, size: str) -> None:
    """A film through ``run`` beside the engine and the kernels, one frame after the other, and the codec's CPU time
    over the cores."""
    count = FILM_FRAMES[size] if seconds else 3
    source, target = film(tmp_path / "in.mp4", pixels(size), count), tmp_path / "out.mp4"
    video = VideoSource(source)
    frames = list(islice(video, BLOCK_FRAMES))
    video.close()
    terms: list[dict[str, float]] = []
    with Deblurrer("nano", "cpu", backend=BACKENDS["fp32"], gating=False) as deblurrer:
        stream, stats = deblurrer.open_stream(), deblurrer.stats

        def bound() -> float:
            before = stats.seconds.copy()
            for frame in frames:
                stream.process(frame)
            term = {name: (stats.seconds[name] - before[name]) / len(frames) for name in ("engine", "unpack", "blend")}
            start = process_time()
            run(source, target, deblurrer=Passing(), overwrite=True)
            terms.append({**term, "codec": (process_time() - start) / count})
            return count * (sum(term.values()) + terms[-1]["codec"] / cpu_quota())

        work = timed(lambda: run(source, target, deblurrer=deblurrer, overwrite=True))
        found = paired(work, bound, "stages", ROUNDS)
    found["frames"], found["cores"] = count, cpu_quota()
    found["terms"] = {name: median(term[name] for term in terms) for name in terms[0]}
