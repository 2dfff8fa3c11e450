# SPDX-License-Identifier: Apache-2.0
"""What the preview page stands on, without a camera or a network: a session that takes notes, shots drawn by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from crispstream.errors import UsageError
from crispstream.frame import Frame
from crispstream.live.protocol import LiveSink, Shot

LATENCY = {"p50": 41.0, "p95": 60.0, "p99": 70.0, "max": 80.0}


def drawn_shot(number: int = 0, width: int = 640, height: int = 360, strength: float = 1.0) -> Shot:
    """Before is dark red, after green (the brighter, the stronger), people are left, half of all is blur."""
    before, after = np.zeros((height, width, 3), np.uint8), np.zeros((height, width, 3), np.uint8)
    before[..., 2] = 120
    after[..., 1] = min(255, round(120 * strength))
    head = np.zeros((2, -(-height // 16) * 2, -(-width // 16) * 2), np.float32)
    head[0, :, : head.shape[2] // 2] = 1
    head[1] = 0.5
    return Shot(Frame.from_array(before), Frame.from_array(after), time.monotonic(), number, head)


class StubSession:
    """The session's public face. ``asked`` is what ``switch`` was called with; where ``slow``, it never ends."""

    def __init__(self) -> None:
        self.strength, self.preset, self.backend, self.name = 1.0, "nano", "auto", "rtsp://***@camera/1"
        self.slow, self.error = False, ""
        self.opening: dict[str, str] | None = None
        self.asked: list[tuple[str, str]] = []
        self.count = 0
        self._started = time.monotonic()

    def status(self) -> dict[str, Any]:
        """Like the real one's."""
        wave = 0.5 + 0.5 * np.sin(self.count / 40)
        return {
            "uptime_s": round(time.monotonic() - self._started, 1),
            "state": "live",
            "source": {
                "name": self.name,
                "state": "live",
                "reconnects": 2,
                "error": "",
                "damaged": 3,
                "width": 640,
                "height": 360,
                "fps": 25.0,
            },
            "engine": {
                "preset": self.preset,
                "backend": self.backend,
                "name": "onnxruntime",
                "device": "cpu",
                "strength": self.strength,
                "ms": 33.1,
                "opening": self.opening,
                "error": self.error,
            },
            "frames": {"in": self.count + 1, "out": self.count},
            "fps": {"in": 25.0, "out": 24.9},
            "latency_ms": LATENCY,
            "drops": {"source": 4, "newer": 1, "late": 0},
            "shares": {"person": round(0.1 + 0.2 * wave, 3), "blur": None},
            "variants": {"both": 90, "none": 9},
            "non_finite": 0,
            "sinks": [
                {"name": "out.mkv", "state": "open", "frames": 99, "dropped": 0, "error": "", "latency_ms": LATENCY}
            ],
        }

    def presets(self) -> list[str]:
        return ["nano", "small"]

    def set_strength(self, value: float) -> None:
        if not 0 <= value <= 2:
            raise UsageError(f"strength {value} is outside 0..2")
        self.strength = value

    def switch(self, preset: str, backend: str = "auto") -> None:
        if preset not in self.presets():
            raise UsageError(f"unknown preset '{preset}'", "known presets: nano, small")
        self.asked.append((preset, backend))
        self.error = ""
        if self.slow:
            self.opening = {"preset": preset, "backend": backend}
        else:
            self.preset, self.backend = preset, backend


@contextmanager
def feeding(
    sink: LiveSink, session: StubSession, shots: Sequence[Shot] = (), fps: float = 25.0
) -> Iterator[list[float]]:
    """Write shots into ``sink`` at ``fps`` meanwhile. Yields the seconds that each ``write`` took."""
    stop, took = threading.Event(), list[float]()

    def feed() -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += 1 / fps
            session.count += 1
            shot = shots[session.count % len(shots)] if shots else drawn_shot(strength=session.strength)
            start = time.monotonic()
            sink.write(replace(shot, number=session.count, captured=start))
            took.append(time.monotonic() - start)

    thread = threading.Thread(target=feed, name="feed")
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()
