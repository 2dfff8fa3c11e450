# SPDX-License-Identifier: Apache-2.0
"""Streams that share an engine: fair, in order, bounded, and closed whenever somebody likes."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crispstream import Deblurrer, DeblurrerPool, Frame, Policy
from crispstream.deblurrer import Pending
from crispstream.errors import EngineError, UsageError
from crispstream.gating import SLOTS
from crispstream.pool import _REST_SECONDS, PoolStream

PATIENCE = 60.0
"""Seconds for what takes none: a busy machine may let a thread wait for its turn."""


def numbered(number: int, stream: int = 0) -> Frame:
    return Frame.from_array(np.full((2, 2, 3), stream, np.uint8)).with_planes((np.full((2, 2, 3), number, np.uint8),))


class ManualEngine:
    """Stands where a Deblurrer stands. Frames are done when the test says so, as on a GPU, in any order."""

    def __init__(self) -> None:
        self.started: list[tuple[int, Frame, Future[Any]]] = []
        self.streams = 0
        self._changed = threading.Condition()

    def open_stream(self) -> Any:
        number, self.streams = self.streams, self.streams + 1
        return SimpleNamespace(submit=lambda frame: self._submit(number, frame))

    def _submit(self, stream: int, frame: Frame) -> Pending:
        future: Future[Any] = Future()
        with self._changed:
            self.started.append((stream, frame, future))
            self._changed.notify_all()
        return Pending(future)

    def wait_for_start(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.started) >= count, PATIENCE), f"{len(self.started)} started"

    def finish(self, index: int, error: Exception | None = None) -> None:
        self.wait_for_start(index + 1)
        _, frame, future = self.started[index]
        if error:
            future.set_exception(error)
        else:
            future.set_result(SimpleNamespace(frame=frame))


class SleepingEngine(ManualEngine):
    """An engine that is done when ``submit`` returns, as on the CPU, after ``seconds``; counts frames per stream.

    ``turns`` are its frames in order: whose each was, and which streams of ``pool`` could have had a frame started when
    it was, after it.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.done = seconds, Counter[int]()
        self.pool: DeblurrerPool | None = None
        self.turns: list[tuple[int, set[int]]] = []

    def open_stream(self) -> Any:
        state = super().open_stream()
        state.number = self.streams - 1
        return state

    def _submit(self, stream: int, frame: Frame) -> Pending:
        if self.pool is not None:
            with self.pool._lock:
                ready = {other._state.number for other in self.pool._streams if other._ready}  # type: ignore[attr-defined]
            self.turns.append((stream, ready))
        time.sleep(self.seconds)
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(frame=frame))
        self.done[stream] += 1
        return Pending(future)


@pytest.fixture
def manual() -> Iterator[tuple[ManualEngine, DeblurrerPool]]:
    engine = ManualEngine()
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        yield engine, pool


def value(frame: Frame) -> int:
    return int(frame.planes[0][0, 0, 0])


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """The result of ``work`` in a thread that a failing test does not wait for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_for(condition: Callable[[], object]) -> None:
    """Until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def pump(stream: PoolStream) -> None:
    """Push as fast as the stream takes frames, and fetch every result, until it is closed."""

    def push() -> None:
        try:
            while True:
                stream.submit(numbered(0))
        except UsageError:
            pass

    in_thread(push)
    in_thread(lambda: Counter(1 for _ in stream))


def test_streams_that_all_have_frames_take_turns(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    streams = [pool.open_stream(capacity=4) for _ in range(3)]
    blocked = pool.open_stream()
    for number in range(SLOTS):  # the engine is busy, so that all have their frames before the first turn
        blocked.submit(numbered(number))
    engine.wait_for_start(SLOTS)
    for stream in streams:
        for number in range(4):
            stream.submit(numbered(number))
    for index in range(SLOTS + 12):
        engine.finish(index)
    order = [(stream, value(frame)) for stream, frame, _ in engine.started[SLOTS:]]
    assert order == [(stream, number) for number in range(4) for stream in range(3)]


def passed_over(turns: list[tuple[int, set[int]]]) -> list[tuple[int, int, int]]:
    """(turn, stream, other): a stream had its next turn before another one that was ready at its last turn had any.

    However late a thread is with its frames, this may not be: whoever has one waiting gets one restored per round.
    """
    found = []
    last: dict[int, int] = {}
    for turn, (stream, _) in enumerate(turns):
        if stream in last:
            between = {one for one, _ in turns[last[stream] + 1 : turn]}
            found += [(turn, stream, other) for other in turns[last[stream]][1] - between - {stream}]
        last[stream] = turn
    return found


@pytest.mark.parametrize("policy", Policy)
def test_a_greedy_stream_takes_nothing_from_the_others(policy: Policy) -> None:
    engine = SleepingEngine(0.002)
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        engine.pool = pool
        started = time.monotonic()
        # All before the first turn: one that is opened later comes after whoever had the last turn.
        greedy, slow = [pool.open_stream(policy) for _ in range(3)], pool.open_stream(Policy.WAIT)
        for stream in greedy:
            pump(stream)
        for number in range(20):
            slow.submit(numbered(number))
            assert value(in_thread(lambda: next(slow)).result(PATIENCE)) == number
            time.sleep(0.01)
        wait_for(lambda: sum(len(ready) >= 2 for _, ready in engine.turns) >= 20)  # they do compete
        dropped = [stream.stats.dropped for stream in greedy]
        seconds = time.monotonic() - started
    assert passed_over(engine.turns) == []
    # Who only makes its own frames drop lets go of Python's lock each time, so that the pool gets to run.
    assert max(dropped) <= seconds / _REST_SECONDS + 1, (dropped, seconds)


def test_shares_are_equal() -> None:
    """All push as fast as they can. On a busy machine a producer's own thread may be late for its turn."""
    engine = SleepingEngine(0.004)
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        engine.pool = pool
        for stream in [pool.open_stream(Policy.NEWEST) for _ in range(4)]:  # all before the first turn
            pump(stream)
        wait_for(lambda: min(engine.done[n] for n in range(4)) >= 50 and len(rounds(engine.turns, 4)) >= 20)
    assert passed_over(engine.turns) == []
    assert all(len({stream for stream, _ in turns}) == 4 for turns in rounds(engine.turns, 4))


def rounds(turns: list[tuple[int, set[int]]], streams: int) -> list[list[tuple[int, set[int]]]]:
    """As many turns in a row as there are streams, wherever none of them was late for its own."""
    in_a_row = [turns[start : start + streams] for start in range(len(turns) - streams + 1)]
    return [row for row in in_a_row if all(len(ready | {stream}) == streams for stream, ready in row)]


def test_newest_drops_the_oldest_of_its_own_and_counts(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    live, other = pool.open_stream(Policy.NEWEST, capacity=2), pool.open_stream()
    for number in range(SLOTS):
        live.submit(numbered(number))
        engine.wait_for_start(number + 1)
    other.submit(numbered(0))
    for number in range(SLOTS, SLOTS + 10):
        live.submit(numbered(number))
    live.finish()
    results = in_thread(lambda: [value(frame) for frame in live])
    for index in range(SLOTS + 3):
        engine.finish(index)
    assert value(next(other)) == 0
    assert results.result(PATIENCE) == [*range(SLOTS), SLOTS + 8, SLOTS + 9]
    stats = live.stats
    assert (stats.frames_in, stats.frames_out, stats.dropped, stats.failed) == (SLOTS + 10, SLOTS + 2, 8, 0)
    assert other.stats.dropped == 0


def test_wait_holds_only_its_own_producer(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    full, other = pool.open_stream(capacity=1), pool.open_stream(capacity=1)
    for number in range(SLOTS):
        full.submit(numbered(number))
        engine.wait_for_start(number + 1)
    full.submit(numbered(SLOTS))
    late = in_thread(lambda: full.submit(numbered(SLOTS + 1)))
    in_thread(lambda: other.submit(numbered(0))).result(PATIENCE)
    time.sleep(0.05)
    assert not late.done()
    for index in range(SLOTS + 1):
        engine.finish(index)
    assert value(next(full)) == 0 and value(next(other)) == 0
    for number in range(1, SLOTS):
        assert value(next(full)) == number
    late.result(PATIENCE)


@pytest.mark.parametrize("policy", Policy)
def test_results_that_nobody_fetches_hold_up_their_own_stream_only(policy: Policy) -> None:
    engine = SleepingEngine(0)
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        lazy, busy = pool.open_stream(policy, capacity=3), pool.open_stream()
        for number in range(3):
            lazy.submit(numbered(number))
        wait_for(lambda: lazy.stats.frames_out == 3)  # as many results as are kept
        pushed = in_thread(lambda: [lazy.submit(numbered(n)) for n in range(3, 50)])
        for number in range(50):
            busy.submit(numbered(number))
            assert value(next(busy)) == number
        if policy is Policy.WAIT:
            assert not pushed.done() and engine.done[0] == 3
        else:
            pushed.result(PATIENCE)
            # What it drops it drops before the engine works on it.
            assert lazy.stats.dropped == 50 - 3 - 3 and lazy.stats.frames_out == 3


def test_a_frame_that_fails_is_its_streams_error_in_its_place(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    bad, good = pool.open_stream(), pool.open_stream()
    for stream in (bad, good):
        stream.submit(numbered(0, engine.streams))
    engine.finish(0, EngineError("out of memory"))
    engine.finish(1)
    with pytest.raises(EngineError, match="out of memory"):
        next(bad)
    assert value(next(good)) == 0
    bad.submit(numbered(7))
    engine.finish(2)
    assert value(next(bad)) == 7, "the stream goes on"
    assert (bad.stats.failed, bad.stats.frames_out, good.stats.failed) == (1, 1, 0)


def test_results_keep_their_order_when_the_engine_does_not(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    stream = pool.open_stream()
    stream.submit(numbered(1))
    stream.submit(numbered(2))
    engine.finish(1, EngineError("refused at once"))
    assert stream.stats.failed == 0
    engine.finish(0)
    assert value(next(stream)) == 1
    with pytest.raises(EngineError, match="refused at once"):
        next(stream)


def test_what_the_engine_raises_at_once_is_the_streams_error(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual

    def refuse(stream: int, frame: Frame) -> Pending:
        raise UsageError("this Deblurrer is closed")

    engine._submit = refuse  # type: ignore[method-assign]
    streams = [pool.open_stream() for _ in range(SLOTS + 1)]
    for stream in streams:
        stream.submit(numbered(0))
    for stream in streams:
        with pytest.raises(UsageError, match="is closed"):
            next(stream)


def test_finish_still_delivers_and_then_ends(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    stream = pool.open_stream()
    stream.submit(numbered(5))
    stream.finish()
    rest = in_thread(lambda: [value(frame) for frame in stream])
    engine.finish(0)
    assert rest.result(PATIENCE) == [5]
    assert next(stream, None) is None
    with pytest.raises(UsageError, match="no more frames"):
        stream.submit(numbered(6))
    assert not pool._streams, "what has ended takes no place"


def test_finish_wakes_a_consumer_that_has_everything(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    _, pool = manual
    stream = pool.open_stream()
    rest = in_thread(lambda: list(stream))
    time.sleep(0.02)
    stream.finish()
    assert rest.result(PATIENCE) == []


def test_closing_a_stream_with_frames_under_way(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    stream, other = pool.open_stream(capacity=1), pool.open_stream()
    for number in range(SLOTS):
        stream.submit(numbered(number))
        engine.wait_for_start(number + 1)
    stream.submit(numbered(SLOTS))
    producer, consumer = in_thread(lambda: stream.submit(numbered(9))), in_thread(lambda: next(stream, None))
    time.sleep(0.02)
    in_thread(stream.close).result(PATIENCE)
    assert consumer.result(PATIENCE) is None
    with pytest.raises(UsageError):
        producer.result(PATIENCE)
    stream.close()
    for index in range(SLOTS):
        engine.finish(index)
    other.submit(numbered(3))
    engine.finish(SLOTS)
    assert value(next(other)) == 3, "the others go on"
    stats = stream.stats
    assert stats.frames_in == stats.dropped == SLOTS + 1 and stats.frames_out == 0


def test_closing_the_pool_with_frames_under_way(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    streams = [pool.open_stream(policy) for policy in Policy for _ in range(2)]
    for stream in streams:
        stream.submit(numbered(0))
    engine.wait_for_start(SLOTS)
    consumers = [in_thread(lambda s=stream: next(s, None)) for stream in streams]  # type: ignore[misc]
    in_thread(pool.close).result(PATIENCE)
    assert not pool._thread.is_alive()
    assert [consumer.result(PATIENCE) for consumer in consumers] == [None] * 4
    for index in range(SLOTS):  # a GPU finishes what it has after that
        engine.finish(index)
    assert all(stream.stats.dropped == stream.stats.frames_in == 1 for stream in streams)
    with pytest.raises(UsageError, match="closed"):
        pool.open_stream()
    with pytest.raises(UsageError):
        streams[0].submit(numbered(1))
    pool.close()


def test_close_does_not_wait_for_an_engine_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crispstream.pool.CLOSE_SECONDS", 0.05)
    engine, hang, stuck = ManualEngine(), threading.Event(), threading.Event()

    def wait_forever(stream: int, frame: Frame) -> Pending:
        stuck.set()
        hang.wait()
        raise EngineError("woken")

    engine._submit = wait_forever  # type: ignore[method-assign]
    pool = DeblurrerPool(engine)  # type: ignore[arg-type]
    stream = pool.open_stream()
    stream.submit(numbered(0))
    assert stuck.wait(PATIENCE)
    with caplog.at_level(logging.WARNING, "crispstream"):
        in_thread(pool.close).result(PATIENCE)
    assert "has not finished its frame" in caplog.text
    assert next(stream, None) is None
    hang.set()
    pool._thread.join(PATIENCE)
    assert not pool._thread.is_alive()


def test_frames_are_let_go() -> None:
    """While nothing is to do, the pool keeps no frame alive, neither handed in nor restored."""
    engine = SleepingEngine(0)
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        stream = pool.open_stream()
        planes = []
        for number in range(5):
            frame = numbered(number)
            planes.append(weakref.ref(frame.planes[0]))
            stream.submit(frame)
            del frame
            assert value(next(stream)) == number
        # The pool's own thread may still be on its way back to its place.
        wait_for(lambda: (gc.collect(), all(plane() is None for plane in planes))[1])


def test_a_stream_of_no_capacity_is_refused(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        manual[1].open_stream(capacity=0)


def test_latency_is_counted(manual: tuple[ManualEngine, DeblurrerPool]) -> None:
    engine, pool = manual
    stream = pool.open_stream()
    assert stream.stats.latency_ms == {}
    started = time.monotonic()
    stream.submit(numbered(0))
    engine.wait_for_start(1)
    time.sleep(0.05)
    engine.finish(0)
    assert value(next(stream)) == 0
    most = 1000 * (time.monotonic() - started)
    latency = stream.stats.latency_ms
    assert list(latency) == ["p50", "p95", "p99", "max"]
    assert 50 <= latency["p50"] == latency["max"] < most + 1


def blurred(height: int, width: int, seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3)).repeat(12, 0).repeat(12, 1)[:height, :width]
    return Frame.from_array(np.mean([np.roll(blocks, d, 1) for d in range(-4, 5)], 0).astype(np.uint8))


def test_every_stream_gets_what_it_would_get_alone() -> None:
    """Four streams of different sizes, each with its own gating and its own past, in the shipped network."""
    sizes = [(48, 64), (48, 64), (32, 80), (61, 43)]
    frames = [[blurred(*size, seed=100 * i + n) for n in range(20)] for i, size in enumerate(sizes)]
    frames[1] = [frames[1][0]] * 20  # stands still, so that its branches go off
    with Deblurrer("nano", device="cpu", threads=1) as deblur:
        alone = [[f.planes[0] for f in deblur.stream(clip)] for clip in frames]
        with DeblurrerPool(deblur) as pool, ThreadPoolExecutor(2 * len(sizes)) as threads:
            streams = [pool.open_stream() for _ in sizes]

            def feed(index: int) -> None:
                for frame in frames[index]:
                    streams[index].submit(frame)
                streams[index].finish()

            def fetch(index: int) -> list[Any]:
                return [frame.planes[0] for frame in streams[index]]

            fed = [threads.submit(feed, i) for i in range(len(sizes))]
            together = [f.result() for f in [threads.submit(fetch, i) for i in range(len(sizes))]]
            assert all(f.result() is None for f in fed)
    for want, got in zip(alone, together, strict=True):
        assert len(got) == 20 and all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))


def test_many_threads_and_sudden_ends() -> None:
    """Streams come, push, are read and closed from all sides; nothing hangs, nothing is lost from the counts."""
    engine = SleepingEngine(0.0005)
    with DeblurrerPool(engine) as pool:  # type: ignore[arg-type]
        streams: list[PoolStream] = []
        for number in range(30):
            stream = pool.open_stream(Policy.NEWEST if number % 2 else Policy.WAIT, capacity=1 + number % 3)
            streams.append(stream)
            pump(stream)
            if number >= 5:
                streams[number - 5].close() if number % 3 else streams[number - 5].finish()
            time.sleep(0.005)
        wait_for(lambda: any(stream.stats.frames_out for stream in streams))
        in_thread(pool.close).result(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    for stream in streams:
        while (s := stream.stats).frames_in != s.frames_out + s.dropped + s.failed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert s.frames_in == s.frames_out + s.dropped + s.failed and s.failed == 0, s
    assert sum(engine.done.values()) >= sum(stream.stats.frames_out for stream in streams) > 0
