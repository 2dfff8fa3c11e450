# SPDX-License-Identifier: Apache-2.0
"""The three stages with frames from memory: order, overlap, drops, errors, signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from clips import Done

from crispstream.errors import InputError
from crispstream.frame import Frame
from crispstream.pipeline import PipelineStats, run_pipeline
from crispstream.policy import Policy


def picture(index: int) -> Frame:
    return Frame.from_array(np.full((4, 6, 3), index % 256, np.uint8))


class Memory:
    """A source of ``count`` frames; ``before`` is called with every index."""

    def __init__(self, count: int, before: Callable[[int], None] = lambda i: None) -> None:
        self.total: int | None = count
        self._count = count
        self._before = before
        self.given = 0
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self._before(index)
            self.given += 1
            yield picture(index)

    def close(self) -> None:
        self.closed = True


class Pass:
    def __init__(self, before: Callable[[int], None] = lambda i: None) -> None:
        self._before = before
        self._count = 0

    def submit(self, frame: Frame) -> Done:
        self._before(self._count)
        self._count += 1
        return Done(frame)


class Collect:
    def __init__(self, before: Callable[[int], None] = lambda i: None) -> None:
        self._before = before
        self.got: list[int] = []
        self.ended = ""
        self.complete: bool | None = None

    def write(self, frame: Frame) -> None:
        self._before(len(self.got))
        self.got.append(int(frame.planes[0][0, 0, 0]))

    def hurry(self) -> None:
        self.hurried = True

    def close(self, complete: bool = True) -> None:
        self.ended, self.complete = "closed", complete

    def abort(self) -> None:
        self.ended = self.ended or "aborted"


def fail_at(index: int, error: BaseException) -> Callable[[int], None]:
    def check(now: int) -> None:
        if now == index:
            raise error

    return check


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_frame_arrives_in_order_at_every_sink() -> None:
    source, sinks = Memory(200), [Collect(), Collect()]
    seen: list[int] = []
    stats = run_pipeline(source, Pass(), sinks, on_progress=lambda s: seen.append(s.frames_out))
    assert [s.got for s in sinks] == [list(range(200))] * 2
    assert (stats.frames_in, stats.frames_out, stats.dropped, stats.interrupted) == (200, 200, 0, False)
    assert (stats.width, stats.height) == (6, 4)
    assert all(s.ended == "closed" and s.complete for s in sinks)
    assert source.closed
    assert len(seen) == 200 + 1 and seen == sorted(seen) and seen[-1] == 200, "the last word is that all is written"


def test_the_stages_overlap() -> None:
    """While a frame is read, the one before it is deblurred and the one before that is written."""
    pause = 0.01
    all_three = threading.Barrier(3)

    def stage(meeting: int) -> Callable[[int], None]:
        def work(index: int) -> None:
            time.sleep(pause)
            if index == meeting:
                all_three.wait(60)  # fails where they take turns

        return work

    stats = run_pipeline(Memory(20, stage(10)), Pass(stage(9)), [Collect(stage(8))])
    assert min(stats.decode_seconds, stats.deblur_seconds, stats.encode_seconds) >= 20 * pause


def test_newest_drops_what_a_slow_network_cannot_take() -> None:
    gate = threading.Event()
    source = Memory(50, lambda i: gate.set() if i == 49 else None)
    sink = Collect()
    stats = run_pipeline(source, Pass(lambda i: bool(gate.wait(60))), [sink], Policy.NEWEST)
    assert stats.frames_in == 50
    assert stats.dropped > 0
    assert stats.frames_out + stats.dropped == 50
    assert sink.got == sorted(sink.got) and sink.got[-1] == 49


def test_wait_keeps_the_reader_close_to_the_network() -> None:
    source = Memory(100)
    ahead: list[int] = []
    run_pipeline(source, Pass(lambda i: ahead.append(source.given - i)), [Collect()])
    assert max(ahead) <= 6  # three queued, one in each hand


@pytest.mark.parametrize("stage", ["read", "process", "write", "progress"])
def test_an_error_anywhere_stops_everything_and_comes_out_once(stage: str) -> None:
    error = OSError(28, "No space left on device")
    bad = fail_at(17, error)
    source = Memory(10_000, bad if stage == "read" else lambda i: None)
    sink = Collect(bad if stage == "write" else lambda i: None)

    def progress(stats: PipelineStats) -> None:
        if stage == "progress":
            raise error

    with pytest.raises(OSError, match="No space left") as caught:
        run_pipeline(source, Pass(bad if stage == "process" else lambda i: None), [sink], on_progress=progress)
    assert caught.value is error
    assert sink.ended == "aborted"
    assert source.closed
    assert source.given < 100


def test_an_error_while_finishing_aborts() -> None:
    class Full(Collect):
        def close(self, complete: bool = True) -> None:
            raise OSError(28, "No space left on device")

    sink = Full()
    with pytest.raises(OSError, match="No space left"):
        run_pipeline(Memory(5), Pass(), [sink])
    assert sink.ended == "aborted"


def test_no_frame_is_an_input_error() -> None:
    sink = Collect()
    with pytest.raises(InputError, match="no frame"):
        run_pipeline(Memory(0), Pass(), [sink])
    assert sink.ended == "aborted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_flight(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    source, sink = Memory(100_000), Collect()
    stats = run_pipeline(source, Pass(lambda i: os.kill(os.getpid(), number) if i == 20 else None), [sink])
    assert stats.interrupted
    assert sink.ended == "closed" and sink.complete is False
    assert stats.frames_out == stats.frames_in < 100
    assert sink.got == list(range(stats.frames_out))
    assert signal.getsignal(number) is before


def test_a_second_signal_gives_up() -> None:
    source, sink = Memory(100_000), Collect()

    def kill(index: int) -> None:
        late = time.monotonic() + 60
        while index == 20 and source.given < 22 and time.monotonic() < late:
            time.sleep(0.001)  # else the first signal might keep frame 21 from being read
        if index in (20, 21):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(source, Pass(kill), [sink])
    assert sink.ended == "aborted"


def test_later_signals_wait_until_both_threads_have_ended() -> None:
    """Whoever keeps pressing Ctrl-C while the last frame is written must not have the file closed below the writer."""
    writing, pressed = threading.Event(), threading.Event()

    class Slow(Collect):
        def write(self, frame: Frame) -> None:
            writing.set()
            pressed.wait(60)
            time.sleep(0.1)
            super().write(frame)
            self.writer_done = True

        def abort(self) -> None:
            self.aborted_after_the_writer = getattr(self, "writer_done", False)
            super().abort()

    def press(index: int) -> None:
        writing.wait(60)
        presser.start()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    def keep_pressing() -> None:
        for _ in range(3):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        pressed.set()

    sink = Slow()
    presser = threading.Thread(target=keep_pressing)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Memory(100_000), Pass(lambda i: press(i) if i == 1 else None), [sink])
    presser.join()
    assert sink.ended == "aborted" and sink.aborted_after_the_writer
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_during_a_failure_does_not_hide_it() -> None:
    class Dying(Memory):
        def close(self) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            super().close()

    source, sink = Dying(100), Collect()
    with pytest.raises(OSError, match="No space left"):
        run_pipeline(source, Pass(fail_at(5, OSError(28, "No space left on device"))), [sink])
    assert source.closed and sink.ended == "aborted"


def test_a_signal_before_the_first_frame_leaves_nothing() -> None:
    class Late(Memory):
        def __iter__(self) -> Iterator[Frame]:
            os.kill(os.getpid(), signal.SIGINT)
            return iter(())

    sink = Collect()
    stats = run_pipeline(Late(0), Pass(), [sink])
    assert stats.interrupted and stats.frames_out == 0
    assert sink.ended == "aborted"


def test_it_runs_outside_the_main_thread() -> None:
    results: list[PipelineStats] = []
    thread = threading.Thread(target=lambda: results.append(run_pipeline(Memory(5), Pass(), [Collect()])))
    thread.start()
    thread.join(60)
    assert results[0].frames_out == 5
