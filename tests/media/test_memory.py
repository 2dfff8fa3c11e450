# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the length of a film."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from av.video.frame import VideoFrame
from clips import write_clip

from crispstream.sources.video import VideoSource

SCRIPT = """
import gc, sys
from clips import Identity
from crispstream import run

marks = {}

def look(index):
    if index in (1500, 4500):
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        marks[index] = pages * 4096

report = run(sys.argv[1], sys.argv[2], deblurrer=Identity(look), speed="ultrafast")
print(report.frames, (marks[4500] - marks[1500]) >> 10)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_is_flat_over_thousands_of_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=5000, size=(160, 96), audio="aac", options={"preset": "ultrafast"})
    environment = {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    frames, growth = map(int, done.stdout.split())
    assert frames == 5000
    # 3,000 frames of 160x96 are 67 MiB; the muxer's index of 3,000 samples is part of what is allowed.
    assert growth < 8 * 1024, f"{growth} KiB more after 3,000 more frames"


def test_pictures_end_with_their_last_reference(tmp_path: Path) -> None:
    """Not when Python's collector comes: in a stream of weeks they would pile up meanwhile."""
    clip = write_clip(tmp_path / "in.mp4", frames=40)
    gc.collect()
    others = sum(isinstance(o, VideoFrame) for o in gc.get_objects())  # which earlier tests left behind
    gc.disable()
    try:
        source = VideoSource(clip)
        alive = []
        for frame in source:
            assert frame is not None
            del frame
            alive.append(sum(isinstance(o, VideoFrame) for o in gc.get_objects()))
        source.close()
    finally:
        gc.enable()
    assert max(alive) - others < 10, "of 40; the decoder and its queue hold a few"
