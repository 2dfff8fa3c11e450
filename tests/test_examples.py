# SPDX-License-Identifier: Apache-2.0
"""Every example runs and does what it says."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from crispstream.frame import Frame
from crispstream.sinks.video import VideoSink
from crispstream.sources.video import VideoSource

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str, *arguments: str, stdin: bytes = b"") -> bytes:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=120).stdout


def picture(shift: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([(rows * 3 + shift) % 256, (columns * 2) % 256, (rows + columns) % 256], 2).astype(np.uint8)


def test_every_example_is_tested() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {"numpy_only.py", "ffmpeg_pipe.py", "video_file.py"}


def test_numpy_only_gets_closer_to_the_truth() -> None:
    before, after = (float(line.split()[-1]) for line in example("numpy_only.py").splitlines())
    assert after > before


def test_ffmpeg_pipe_returns_every_whole_frame_in_order() -> None:
    sent = [picture(i) for i in range(4)]
    data = b"".join(p.tobytes() for p in sent)
    out = np.frombuffer(example("ffmpeg_pipe.py", "64x48", stdin=data + b"cut off"), np.uint8).reshape(4, 48, 64, 3)
    for got, want in zip(out, sent, strict=True):
        assert np.abs(got.astype(int) - want).mean() < 8


def test_video_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "in.mp4", rate=Fraction(25))
    for index in range(5):
        sink.write(Frame.from_array(picture(index)))
    sink.close()
    assert b"5 frames" in example("video_file.py", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4"))
    restored = VideoSource(tmp_path / "out.mp4")
    assert len(list(restored)) == 5
    restored.close()
