# SPDX-License-Identifier: Apache-2.0
"""Connections that fail, end, hang and come back."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media.clips import write_clip
from stand_ins import Clock, ScriptedSource, hang, lost, picture, wait_for

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame
from crispstream.live import receiver as module
from crispstream.live.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff
from crispstream.live.places import SourceWishes, source_of
from crispstream.live.protocol import CAPTURED, AccessError, HangingError, Timeouts
from crispstream.live.receiver import MOST_STUCK, Receiver
from crispstream.sources.video import VideoSource

LONG = Timeouts(open=120, read=120)
"""For sources of which none is to count as stuck, however slow the machine is."""


class Line:
    """A receiver over scripted connections, and what it delivered."""

    def __init__(self, *scripts: Iterator[Any], timeouts: Timeouts = LONG) -> None:
        self.made: list[ScriptedSource] = []
        self.got: list[tuple[Frame, float]] = []
        self._scripts = iter(scripts)
        self.receiver = Receiver("camera", self._make, lambda f, at: self.got.append((f, at)), timeouts)
        self.receiver.start()

    def _make(self) -> ScriptedSource:
        self.made.append(ScriptedSource(next(self._scripts, iter([lost()]))))
        return self.made[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The receiver's."""
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda self: 0.01)


def test_frames_until_the_source_ends() -> None:
    line = Line(iter([picture(1), None, picture(2)]))
    assert line.receiver.ended.wait(60)
    assert [f.planes[0][0, 0, 0] for f, _ in line.got] == [1, 2]
    assert line.receiver.state == "ended" and line.receiver.failure is None
    assert line.made[0].closed == 1


def test_a_lost_connection_is_made_again_and_secrets_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crispstream.live")
    line = Line(iter([picture(1), lost()]), iter([lost()]), iter([picture(2)]))
    assert line.receiver.ended.wait(60)
    assert [f.planes[0][0, 0, 0] for f, _ in line.got] == [1, 2]
    assert (line.receiver.reconnects, line.receiver.connections) == (2, 2)
    assert all(source.closed == 1 for source in line.made)
    assert "the connection is lost" in caplog.text and "secret" not in caplog.text and "user" not in caplog.text


def test_a_refusal_is_not_tried_again_soon() -> None:
    line = Line(iter([AccessError("wants another password", "SCHEME://USER:PASSWORD@HOST")]))
    wait_for(lambda: line.receiver.state == "reconnecting")
    time.sleep(0.3)
    assert len(line.made) == 1, "others were tried again thirty times by now"
    since = time.monotonic()
    line.receiver.stop()
    assert time.monotonic() - since < 20, "30 s is how long it would wait"


def test_the_same_failure_again_and_again_is_told_once_and_with_its_hint(caplog: pytest.LogCaptureFixture) -> None:
    hinted = [InputError("no such camera", "there is /dev/video2") for _ in range(5)]
    line = Line(*[iter([error]) for error in hinted], iter([picture(1), lost()]), iter([lost()]))
    wait_for(lambda: line.receiver.reconnects > 8)
    line.receiver.stop()
    told = [record.getMessage() for record in caplog.records if "next try" in record.getMessage()]
    assert len(told) == 2 and "no such camera (there is /dev/video2); next try" in told[0]


def test_a_wrong_argument_is_not_tried_again() -> None:
    line = Line(iter([UsageError("no such transport")]))
    assert line.receiver.ended.wait(60)
    assert isinstance(line.receiver.failure, UsageError) and len(line.made) == 1


def test_any_exception_of_a_library_is_a_lost_connection() -> None:
    line = Line(iter([ZeroDivisionError("in a driver")]), iter([picture(2)]))
    assert line.receiver.ended.wait(60)
    assert len(line.got) == 1


def test_a_source_that_hangs_is_left_behind_and_its_late_frames_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    free = threading.Event()
    scripts = iter([picture(1), hang(free), picture(99)]), iter([picture(2), hang(free)])
    line = Line(*scripts, timeouts=Timeouts(open=120, read=0.1))
    wait_for(lambda: len(line.got) == 2)
    free.set()
    wait_for(lambda: line.made[0].closed == 1)
    line.receiver.stop()
    assert [f.planes[0][0, 0, 0] for f, _ in line.got] == [1, 2], "what the first one still brought is of the past"


def test_a_source_that_is_silent_and_says_so_is_not_stuck(clock: Clock) -> None:
    """It comes back every three seconds, for a minute; the supervisor looks ten times meanwhile."""
    silence = [lambda: (clock.move(3), time.sleep(0.05))[1]] * 20
    line = Line(iter([picture(1), *silence, picture(2)]), timeouts=Timeouts(open=10, read=5))
    assert line.receiver.ended.wait(60)
    assert len(line.got) == 2 and len(line.made) == 1


def test_a_source_that_uses_all_of_its_timeouts_is_not_stuck(clock: Clock) -> None:
    """Each of these was silent for as long as NetworkSource may be; the supervisor looks at it meanwhile."""

    def silent(seconds: float) -> None:
        clock.move(seconds)
        time.sleep(0.3)

    timeouts = Timeouts(open=10, read=5)
    first, later = timeouts.open + timeouts.read, 2 * timeouts.read
    steps = [lambda: silent(first), picture(1), lambda: silent(later), picture(2)]
    made: list[ScriptedSource] = []

    def make() -> ScriptedSource:
        made.append(ScriptedSource(iter(steps), lambda: silent(timeouts.open)))
        return made[-1]

    receiver = Receiver("camera", make, lambda frame, at: None, timeouts)
    receiver.start()
    assert receiver.ended.wait(60)
    assert len(made) == 1 and receiver.frames.count == 2


@pytest.mark.parametrize("suffix", [".y4m", ".ts", ".mkv", ".mp4"])
def test_a_fifo_whose_writer_comes_late_loses_nothing(suffix: str, tmp_path: Path, clock: Clock) -> None:
    film, fifo = tmp_path / f"film{suffix}", tmp_path / f"in{suffix}"
    if suffix == ".y4m":
        film.write_bytes(b"YUV4MPEG2 W64 H48 F25:1\n" + b"".join(b"FRAME\n" + bytes([i]) * 64 * 72 for i in range(12)))
    else:
        write_clip(film, container={"movflags": "frag_keyframe+empty_moov"} if suffix == ".mp4" else None)
    assert film.stat().st_size < 65536, "it fits into the pipe"
    os.mkfifo(fifo)
    pictures: list[Frame] = []
    make = source_of(str(fifo), SourceWishes()).make
    receiver = Receiver(fifo.name, make, lambda frame, at: pictures.append(frame), Timeouts())
    receiver.start()
    for _ in range(2):
        time.sleep(0.3)  # the supervisor looks
        clock.move(1000)
    time.sleep(0.3)
    fifo.write_bytes(film.read_bytes())
    assert receiver.ended.wait(60)
    assert receiver.failure is None and (receiver.connections, receiver.reconnects) == (1, 0)
    whole = list(VideoSource(film))
    assert len(pictures) == len(whole) == 12
    for got, expected in zip(pictures, whole, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got.planes, expected.planes, strict=True))


def test_stop_does_not_wait_for_the_writer_of_a_fifo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fifo = tmp_path / "in.y4m"
    os.mkfifo(fifo)
    receiver = Receiver(fifo.name, source_of(str(fifo), SourceWishes()).make, lambda frame, at: None, LONG)
    receiver.start()
    receiver.stop(30)
    assert receiver.ended.is_set() and "left behind" not in caplog.text


def test_threads_that_hang_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    free = threading.Event()
    line = Line(*[iter([hang(free)]) for _ in range(20)], timeouts=Timeouts(0.05, 0.05))
    wait_for(lambda: "do not close" in line.receiver.error)
    assert len(line.made) == MOST_STUCK
    free.set()
    wait_for(lambda: len(line.made) > MOST_STUCK)
    line.receiver.stop()
    assert line.receiver.ended.wait(60)


def test_where_everything_hangs_for_good_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(module, "BLOCKED_SECONDS", 0.2)
    free = threading.Event()
    line = Line(*[iter([hang(free)]) for _ in range(20)], timeouts=Timeouts(0.05, 0.05))
    assert line.receiver.ended.wait(60)
    assert isinstance(line.receiver.failure, InputError) and "hang" in str(line.receiver.failure)
    free.set()


def test_a_driver_that_hangs_for_good_is_given_up_and_one_that_comes_back_is_not(
    clock: Clock,
) -> None:
    def held() -> Iterator[Any]:
        yield lambda: clock.move(15)
        yield HangingError("/dev/video0 hangs in its driver", "unplug the camera")

    line = Line(*[held() for _ in range(4)], iter([lost()]), *[held() for _ in range(20)])
    assert line.receiver.ended.wait(60)
    assert isinstance(line.receiver.failure, InputError) and "hangs in its driver" in str(line.receiver.failure)
    assert len(line.made) == 5 + 6, "a minute, counted from the last time it was something else"


def test_only_connections_that_are_begun_count_and_make_the_waiting_short_again(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(module, "MOST_STUCK", 1)
    resets, waits = [], []
    monkeypatch.setattr(module.Backoff, "reset", lambda self: resets.append(0))
    monkeypatch.setattr(module.Backoff, "next", lambda self: (waits.append(0), 0.01)[1])
    free = threading.Event()
    good = [picture(1), lambda: clock.move(11), picture(2)]
    stuck = [lambda: (clock.move(1000), hang(free)())[1]]
    line = Line(iter([*good, lost()]), iter([*good, *stuck]))
    wait_for(lambda: len(waits) > 10)  # nine of them with no connection
    assert (line.receiver.reconnects, line.receiver.connections, len(resets)) == (1, 2, 2)
    line.receiver.stop()
    free.set()


def test_a_source_that_cannot_be_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def make() -> ScriptedSource:
        tries.append(0)
        if len(tries) < 3:
            raise OSError("too many open files")
        return ScriptedSource(iter([picture(1)]))

    receiver = Receiver("camera", make, lambda frame, at: None, LONG)
    receiver.start()
    assert receiver.ended.wait(60)
    assert receiver.frames.count == 1 and receiver.failure is None and len(tries) == 3


def test_stop_does_not_wait_for_a_source_that_hangs() -> None:
    free = threading.Event()
    line = Line(iter([picture(1), hang(free)]), timeouts=Timeouts(60, 60))
    wait_for(lambda: line.got)
    since = time.monotonic()
    line.receiver.stop(0.2)
    assert time.monotonic() - since < 30, "it hangs for two minutes"
    free.set()


def test_the_devices_own_capture_time_counts() -> None:
    stamped = Frame(picture(1).planes, picture(1).format, info={CAPTURED: 12.5})
    since = time.monotonic()
    line = Line(iter([stamped, picture(2)]))
    assert line.receiver.ended.wait(60)
    assert line.got[0][1] == 12.5
    assert since <= line.got[1][1] <= time.monotonic()


def test_another_size_is_seen() -> None:
    line = Line(iter([picture(1), picture(2, (32, 16))]))
    assert line.receiver.ended.wait(60)
    assert line.receiver.size == (32, 16)


def test_a_fatal_signal_of_the_source_is_its_message() -> None:
    free = threading.Event()
    line = Line(iter([InputError("no such camera")]), iter([None] * 3 + [hang(free)]))
    wait_for(lambda: line.receiver.error == "no such camera")
    assert line.receiver.state == "reconnecting"
    free.set()
    line.receiver.stop()


def test_waits_double_up_to_three_seconds_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real one
    waits = [[backoff.next() for _ in range(8)] for backoff in (Backoff(), Backoff())]
    for one in waits:
        for i, wait in enumerate(one):
            longest = min(FIRST_SECONDS * 2**i, LONGEST_SECONDS)
            assert longest / 2 <= wait <= longest
    assert waits[0] != waits[1]
    backoff = Backoff()
    for _ in range(6):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= FIRST_SECONDS
