# SPDX-License-Identifier: Apache-2.0
"""In steady state no frame takes new memory: the blocks of earlier frames come back from malloc, pages and all.

A minor page fault is counted for every page that a process touches for the first time, so a plane in new memory shows
as one for each 4 KiB of it. What else goes on adds one or two now and then, and where a stage was late, more frames
than before are under way at once: medians are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from resource import getpagesize
from statistics import median

import pytest
from media.clips import write_clip

SIZES = {"360p": (640, 360), "720p": (1280, 720)}

STREAM = """
import json, sys, tracemalloc
from resource import RUSAGE_SELF, getrusage
import numpy as np
from crispstream import Deblurrer, Frame, PixelFormat
from crispstream.frame import plane_shapes

width, height, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
format = PixelFormat[name]
noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
shapes = plane_shapes(format, width, height)
sources = [Frame(tuple(n.ravel()[: np.prod(s)].reshape(s) for s in shapes), format) for n in noise]
faults, traced = [], []
with Deblurrer(device="cpu", backend="onnxruntime", gating=False) as deblur:
    for out in deblur.stream(sources[i % 2] for i in range(19)):
        faults.append(getrusage(RUSAGE_SELF).ru_minflt)
    stream = deblur.open_stream()
    tracemalloc.start()
    for i in range(3):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        out = stream.process(sources[i % 2])
        traced.append(tracemalloc.get_traced_memory()[1] - before)
print(json.dumps({"faults": np.diff(faults[7:]).tolist(), "traced": traced}))
"""

FILM = """
import json, sys
from resource import RUSAGE_SELF, getrusage
import numpy as np
from crispstream import Deblurrer, run
from crispstream.sinks.video import VideoSink

faults, write = [], VideoSink.write

def counted(self, frame):
    write(self, frame)
    faults.append(getrusage(RUSAGE_SELF).ru_minflt)

VideoSink.write = counted
run(sys.argv[1], sys.argv[2], device="cpu", backend="onnxruntime", speed="ultrafast")
print(json.dumps(np.diff(faults[7:]).tolist()))
"""


def measured(code: str, *arguments: object) -> object:
    """What ``code`` prints as JSON, in an interpreter that has done nothing else."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def few(frame: int) -> float:
    """Page faults that are no new memory of ``frame`` bytes, nor a twentieth of it."""
    return max(3, frame / getpagesize() / 20)


def bytes_of(pixel_format: str, size: tuple[int, int]) -> int:
    return size[0] * size[1] * (6 if pixel_format == "BGR24" else 3) // 2


@pytest.mark.parametrize("pixel_format", ["BGR24", "I420"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_stream_in_memory(size: tuple[int, int], pixel_format: str) -> None:
    found = measured(STREAM, *size, pixel_format)
    assert isinstance(found, dict)
    frame = bytes_of(pixel_format, size)
    assert median(found["faults"]) < few(frame), found["faults"]
    # Beside its result a frame takes the head's maps twice, for a while, and small Python objects.
    maps = 2 * 4 * (size[0] // 8) * (size[1] // 8)
    assert median(found["traced"]) < frame + 2 * maps + 32 * 1024, found["traced"]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_from_film_to_film(size: tuple[int, int], tmp_path: Path) -> None:
    """Decoder, frames, engine and encoder together."""
    clip = write_clip(tmp_path / "in.mp4", frames=20, size=size, audio="aac")
    faults = measured(FILM, clip, tmp_path / "out.mp4")
    assert isinstance(faults, list)
    assert median(faults) < few(bytes_of("I420", size)), faults
