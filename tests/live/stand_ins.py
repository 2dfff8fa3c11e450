# SPDX-License-Identifier: Apache-2.0
"""Sources that fail on cue, sinks that stall on cue, and an engine whose speed the test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

from crispstream.deblurrer import Pending
from crispstream.errors import InputError
from crispstream.frame import Frame, PixelFormat
from crispstream.live.protocol import EndOfSource, Shot
from crispstream.runners.protocol import Outcome


def picture(value: int = 0, size: tuple[int, int] = (16, 16)) -> Frame:
    """A frame of one grey value."""
    return Frame.from_array(np.full((size[1], size[0], 3), value % 256, np.uint8), PixelFormat.BGR24)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until ``condition`` holds; fails the test where it does not within so many seconds, more than a busy machine
    takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class ScriptedSource:
    """One connection: ``steps`` gives frames, None, exceptions to raise, or callables to run in the source's thread."""

    name = "scripted"

    def __init__(self, steps: Iterator[Any], opening: Callable[[], None] = lambda: None) -> None:
        self._steps, self._opening = steps, opening
        self.closed = self.dropped = self.damaged = 0

    def open(self) -> None:
        self._opening()

    def read(self) -> Frame | None:
        step = next(self._steps, EndOfSource("that was all"))
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return None
        assert step is None or isinstance(step, Frame)
        return step

    def close(self) -> None:
        self.closed += 1


def paced(count: int, rate: float) -> Iterator[Any]:
    """``count`` frames, ``rate`` a second, on a steady clock. Where the machine is busy some of them are dropped."""
    start = time.monotonic()
    for i in range(count):
        yield lambda due=start + i / rate: time.sleep(max(0.0, due - time.monotonic()))
        yield picture(i)


def in_step(count: int, done: Callable[[], int]) -> Iterator[Any]:
    """``count`` frames, each once ``done`` has counted all before it: none is dropped, however busy the machine is."""
    for i in range(count):
        yield lambda seen=i: wait_for(lambda: done() >= seen)
        yield picture(i)


class Clock:
    """In place of ``time.monotonic``: stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


class KeepingSink:
    """Keeps shots; ``act`` is called with each before it is kept and may raise or wait. ``unfinished``: the test's."""

    name = "keeping"

    def __init__(self, act: Callable[[Shot], None] = lambda shot: None) -> None:
        self._act = act
        self.shots: list[Shot] = []
        self.closed = self.aborted = self.unfinished = 0

    def write(self, shot: Shot) -> None:
        self._act(shot)
        self.shots.append(shot)

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1


class StubEngine:
    """In place of LiveEngine: adds one to every code after ``seconds``; ``fail`` may raise for a frame."""

    map_stride = 16

    def __init__(self, seconds: float = 0.0, fail: Callable[[Frame], None] = lambda frame: None) -> None:
        self.seconds, self._fail = seconds, fail
        self.seen: list[Frame] = []
        self.strength, self.closed = 1.0, 0

    def submit(self, frame: Frame) -> tuple[Pending, None]:
        self.seen.append(frame)
        self._fail(frame)
        time.sleep(self.seconds)
        future: Future[Outcome] = Future()
        after = frame.with_planes((frame.planes[0] + 1,))
        head = np.full((2, 2, 2), 0.25, np.float32)
        head[1] = 0.5
        future.set_result(Outcome(after, (0.0, 0.0), 0, {}, head))
        return Pending(future), None

    def status(self) -> dict[str, Any]:
        return {"preset": "stub", "strength": self.strength}

    def figures(self) -> dict[str, Any]:
        return {"variants": {"both": len(self.seen)}, "non_finite": 0}

    def close(self) -> None:
        self.closed += 1


def hang(until: threading.Event) -> Callable[[], None]:
    """What a driver that never returns does; ends with the test."""
    return lambda: (until.wait(120), None)[1]


def lost() -> InputError:
    """What a connection that breaks raises."""
    return InputError("the connection is lost: rtsp://user:secret@cam/1")
