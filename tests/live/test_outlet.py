# SPDX-License-Identifier: Apache-2.0
"""Sinks that stall, fail and die, and what the others notice of it: nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shots import shot as moving_shot
from stand_ins import KeepingSink, picture, wait_for

from crispstream.errors import ClosedPipeError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.live import outlet as module
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import EndOfSink, Shot
from crispstream.sinks.segments import SegmentSink
from crispstream.sinks.snapshots import SnapshotSink
from crispstream.sinks.video import VideoSink


def shot(number: int) -> Shot:
    return Shot(picture(number), picture(number + 1), time.monotonic(), number)


class Made:
    """An outlet over sinks made by ``acts``, one after the other; the last one again and again."""

    def __init__(self, *acts: Callable[[Shot], None], capacity: int = 4) -> None:
        self.sinks: list[KeepingSink] = []
        self._acts = list(acts)
        self.outlet = Outlet("file", self._make, capacity)
        self.outlet.start()

    def _make(self) -> KeepingSink:
        self.sinks.append(KeepingSink(self._acts[min(len(self.sinks), len(self._acts) - 1)]))
        return self.sinks[-1]


def fine(_: Shot) -> None:
    pass


def broken(_: Shot) -> None:
    raise OutputError("no space left on device: rtmp://user:secret@h/a/b")


def test_shots_arrive_in_order_and_the_sink_is_closed() -> None:
    made = Made(fine, capacity=100)
    for i in range(50):
        made.outlet.offer(shot(i))
    made.outlet.finish()
    assert made.outlet.join(60)
    assert [s.number for s in made.sinks[0].shots] == list(range(50))
    assert (made.sinks[0].closed, made.sinks[0].aborted) == (1, 0)
    status = made.outlet.status()
    assert (status["state"], status["frames"], status["dropped"]) == ("closed", 50, 0)
    assert status["latency_ms"]["p50"] >= 0


def test_a_stalled_sink_holds_nobody_up_and_the_newest_shots_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_SECONDS", 0.05)
    free = threading.Event()
    made = Made(lambda s: (free.wait(120), None)[1], capacity=3)
    made.outlet.offer(shot(0))
    wait_for(lambda: made.sinks)
    since = time.monotonic()
    for i in range(1, 101):
        made.outlet.offer(shot(i))
    assert time.monotonic() - since < 30, "the sink is stalled for two minutes"
    wait_for(lambda: made.outlet.status()["state"] == "stalled")
    assert not made.outlet.join(0.1)
    assert made.outlet.status()["state"] == "failed" and "stalled" in made.outlet.error, "and not only stalled"
    free.set()
    made.outlet.finish()
    wait_for(made.outlet.ended.is_set)
    assert [s.number for s in made.sinks[0].shots] == [0]
    assert (made.outlet.frames, made.outlet.dropped) == (0, 101), "all that is lost, counted once"
    assert made.outlet.status()["state"] == "failed", "the session has told its end already"


def test_a_sink_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda self: 0.05)
    made = Made(broken, broken, fine)
    offered = 0

    def arrived() -> bool:
        nonlocal offered
        made.outlet.offer(shot(offered))
        offered += 1
        return len(made.sinks) == 3 and bool(made.sinks[-1].shots)

    wait_for(arrived)
    made.outlet.finish()
    assert made.outlet.join(60)
    assert [sink.aborted for sink in made.sinks] == [1, 1, 0]
    assert made.sinks[-1].closed == 1 and made.sinks[-1].shots
    assert made.outlet.frames + made.outlet.dropped == offered
    assert "no space left" in caplog.text and "secret" not in caplog.text


def test_an_unforeseen_error_is_a_failure_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda self: 0.0)

    def bug(_: Shot) -> None:
        raise KeyError("x")

    made = Made(bug, fine)
    for i in range(3):
        made.outlet.offer(shot(i))
    wait_for(lambda: made.outlet.frames)
    made.outlet.finish()
    assert made.outlet.join(60)
    assert made.outlet.state == "closed"


@pytest.mark.parametrize(
    ("error", "state"),
    [(ClosedPipeError("gone"), "closed"), (UsageError("no GUI"), "failed"), (EndOfSink("full"), "failed")],
)
def test_what_cannot_get_better_is_not_tried_again(error: Exception, state: str) -> None:
    def end(_: Shot) -> None:
        raise error

    made = Made(end, fine)
    made.outlet.offer(shot(0))
    wait_for(made.outlet.ended.is_set)
    made.outlet.offer(shot(1))
    assert made.outlet.state == state and len(made.sinks) == 1 and made.sinks[0].aborted == 1
    assert made.outlet.dropped == 2, "what comes later is lost, and counted"
    assert made.outlet.error == str(error)


def test_what_waits_for_a_sink_that_ends_is_lost_and_counted_and_let_go() -> None:
    free, counted = threading.Event(), []

    def end(_: Shot) -> None:
        counted.append(0)
        if len(counted) == 3:
            free.wait(120)
            raise EndOfSink("the frame size changes")

    made = Made(end, capacity=16)
    for i in range(12):
        made.outlet.offer(shot(i))
    free.set()
    wait_for(made.outlet.ended.is_set)
    for i in range(4):
        made.outlet.offer(shot(i))
    assert (made.outlet.frames, made.outlet.dropped) == (2, 14)
    assert not made.outlet._queue._items


def test_shots_between_two_pictures_are_neither_frames_nor_dropped(tmp_path: Path) -> None:
    outlet = Outlet("now.png", lambda: SnapshotSink(tmp_path / "%d-%H%M%S.png", every=10), 100)
    outlet.start()
    for i in range(25):
        outlet.offer(Shot(picture(i), picture(i), 100.0 + i, i))
    outlet.finish()
    assert outlet.join(60)
    assert (outlet.frames, outlet.dropped, len(list(tmp_path.iterdir()))) == (3, 0, 3)


def test_what_goes_with_a_lost_film_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four shots each: one is finished, one is lost at its third, and the next sink begins another."""
    monkeypatch.setattr(module.Backoff, "next", lambda self: 0.0)
    write, written = VideoSink.write, list[Frame]()

    def full_at_the_seventh(video: VideoSink, frame: Frame) -> None:
        written.append(frame)
        if len(written) == 7:
            raise OutputError("no space left on device")
        write(video, frame)

    monkeypatch.setattr(VideoSink, "write", full_at_the_seventh)
    sizes = [*[(64, 48)] * 4, *[(32, 48)] * 6]
    outlet = Outlet("film", lambda: SegmentSink(tmp_path / "film.mkv"), len(sizes))
    for i, size in enumerate(sizes):
        outlet.offer(moving_shot(i, i / 5, size))
    outlet.finish()
    outlet.start()
    assert outlet.join(60)
    assert (outlet.state, outlet.frames, outlet.dropped) == ("closed", 4 + 3, 3)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_sink_that_cannot_be_closed_is_aborted() -> None:
    made = Made(fine)
    made.outlet.offer(shot(0))
    wait_for(lambda: made.sinks and made.sinks[0].shots)

    def full() -> None:
        raise OutputError("disk full")

    made.sinks[0].close = full  # type: ignore[method-assign]
    made.sinks[0].unfinished = 1
    made.outlet.finish()
    assert made.outlet.join(60)
    assert made.outlet.state == "failed" and made.sinks[0].aborted == 1
    assert (made.outlet.frames, made.outlet.dropped) == (0, 1)
