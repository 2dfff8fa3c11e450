# SPDX-License-Identifier: Apache-2.0
"""From source to sinks: latency that stays flat, drops that are counted, ends that are clean."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from stand_ins import Clock, KeepingSink, ScriptedSource, StubEngine, in_step, lost, paced, picture, wait_for

from crispstream.errors import ClosedPipeError, EngineError, InputError, UsageError
from crispstream.frame import Frame
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import CAPTURED, Shot
from crispstream.live.session import MOST_FAILURES, LiveSession


class Run:
    """A session in a thread, over one script for each connection and one sink."""

    def __init__(
        self,
        *scripts: Iterator[Any],
        engine: StubEngine | None = None,
        act: Callable[[Shot], None] = lambda shot: None,
        max_latency: float | None = None,
    ) -> None:
        self.engine, self.sink = engine or StubEngine(), KeepingSink(act)
        waiting = iter(scripts)
        self.sources: list[ScriptedSource] = []
        self.session = LiveSession(
            "camera",
            lambda: self.sources.append(ScriptedSource(next(waiting, iter([lost()])))) or self.sources[-1],
            self.engine,  # type: ignore[arg-type]
            [Outlet("sink", lambda: self.sink, 100)],
            max_latency=max_latency,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def out(self) -> int:
        """Results so far."""
        return int(self.session.status()["frames"]["out"])

    def _run(self) -> None:
        try:
            self.session.run(tick=0.02)
        except BaseException as error:
            self.error = error

    def end(self, seconds: float = 120.0) -> dict[str, Any]:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.session.summary()


def stepping(count: int, done: Callable[[Run], int] = lambda run: run.out, **options: Any) -> Run:
    """A run of ``count`` frames, each once ``done`` has counted all before it."""
    runs: list[Run] = []

    def script() -> Iterator[Any]:
        yield lambda: wait_for(lambda: runs)
        yield from in_step(count, lambda: done(runs[0]))

    runs.append(Run(script(), **options))
    return runs[0]


def test_every_frame_arrives_where_the_engine_keeps_up() -> None:
    run = stepping(50)
    summary = run.end()
    assert [s.number for s in run.sink.shots] == list(range(50))
    for one in run.sink.shots:
        assert one.after.planes[0][0, 0, 0] == one.before.planes[0][0, 0, 0] + 1
        assert one.head is not None and one.head.shape == (2, 2, 2) and one.map_stride == run.engine.map_stride
    assert summary["frames"] == {"in": 50, "out": 50}
    assert summary["drops"] == {"source": 0, "newer": 0, "late": 0, "failed": 0}
    assert summary["shares"] == {"person": 0.25, "blur": 0.5}
    assert run.error is None and run.sink.closed == 1 and run.engine.closed == 1


def test_latency_stays_flat_with_a_slow_engine_and_every_drop_is_counted() -> None:
    """Ten frames come while the engine works on one: it goes on with the older one of the two newest."""
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def slow(_: Frame) -> None:
        begun.release()
        assert go_on.acquire(timeout=120)

    def bursts() -> Iterator[Any]:
        for i in range(150):
            yield picture(i)
            if i == 0:
                yield lambda: begun.acquire(timeout=60)
            elif i % 10 == 9:
                yield lambda: go_on.release()
                yield lambda: begun.acquire(timeout=60)
        yield lambda: [go_on.release() for _ in range(3)]

    run = Run(bursts(), engine=StubEngine(fail=slow))
    summary = run.end()
    assert [s.number for s in run.sink.shots] == [0, *range(8, 150, 10), 149]
    assert summary["frames"]["out"] + summary["drops"]["newer"] == summary["frames"]["in"] == 150


def test_what_a_source_left_out_is_a_drop_over_all_connections() -> None:
    def lossy(count: int) -> Iterator[Any]:
        yield lambda: wait_for(lambda: begun)
        yield picture(1)
        yield lambda: wait_for(lambda: begun[0].out == len(begun[0].sources))
        begun[0].sources[-1].dropped, begun[0].sources[-1].damaged = count, 1
        yield lost() if count == 3 else picture(2)

    begun: list[Run] = []
    begun.append(Run(lossy(3), lossy(4)))
    summary = begun[0].end()
    assert summary["drops"]["source"] == 7 and summary["source"]["damaged"] == 2
    assert summary["frames"] == {"in": 3 + 7, "out": 3}


def test_late_frames_are_dropped_for_that() -> None:
    run = Run(paced(60, 100), engine=StubEngine(0.1), max_latency=0.005)
    summary = run.end()
    assert summary["drops"]["late"] > 0
    assert summary["frames"]["out"] + summary["drops"]["late"] + summary["drops"]["newer"] == 60


def test_a_new_connection_begins_afresh_even_where_its_first_frame_is_dropped() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def first_is_slow(_: Frame) -> None:
        begun.set()
        assert go_on.wait(120)

    run = Run(
        iter([picture(1), lambda: (begun.wait(60), None)[1], lost()]),
        iter([picture(10), picture(11), picture(12), picture(13), go_on.set]),
        engine=StubEngine(fail=first_is_slow),
    )
    run.end()
    assert [(f.planes[0][0, 0, 0], f.discontinuity) for f in run.engine.seen] == [(1, True), (12, True), (13, False)]


def test_a_mark_of_the_source_outlives_its_frame_that_a_newer_one_replaces() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def first_is_slow(_: Frame) -> None:
        begun.set()
        assert go_on.wait(120)

    marked = replace(picture(10), discontinuity=True)
    script = [picture(1), lambda: (begun.wait(60), None)[1], marked, picture(11), picture(12), go_on.set]
    run = Run(iter(script), engine=StubEngine(fail=first_is_slow))
    run.end()
    assert [(f.planes[0][0, 0, 0], f.discontinuity) for f in run.engine.seen] == [(1, True), (11, True), (12, False)]


def test_a_mark_of_the_source_outlives_its_frame_that_is_too_late() -> None:
    def script() -> Iterator[Any]:
        yield lambda: wait_for(lambda: runs)
        yield picture(1)
        yield lambda: wait_for(lambda: runs[0].out == 1)
        yield replace(picture(10), discontinuity=True, info={CAPTURED: time.monotonic() - 3600})
        yield lambda: wait_for(lambda: runs[0].session.status()["drops"]["late"] == 1)
        yield picture(11)
        yield lambda: wait_for(lambda: runs[0].out == 2)
        yield picture(12)

    runs: list[Run] = []
    runs.append(run := Run(script(), max_latency=600.0))
    run.end()
    assert [(f.planes[0][0, 0, 0], f.discontinuity) for f in run.engine.seen] == [(1, True), (11, True), (12, False)]


def test_stop_finishes_what_is_under_way() -> None:
    run = Run(paced(10_000, 50))
    wait_for(lambda: len(run.sink.shots) > 5)
    run.session.stop()
    summary = run.end()
    assert run.error is None and run.sink.closed == 1
    frames = summary["frames"]
    assert frames["out"] == len(run.sink.shots) and frames["in"] - frames["out"] - sum(summary["drops"].values()) <= 3


def test_an_engine_that_hangs_is_noticed_and_quiet_times_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("crispstream.live.session.monotonic", clock)
    begun, free, checked = threading.Event(), threading.Event(), threading.Event()

    def stuck(frame: Frame) -> None:
        if frame.planes[0][0, 0, 0] == 2:
            begun.set()
            free.wait(120)

    def script() -> Iterator[Any]:
        yield lambda: wait_for(lambda: runs)
        yield from in_step(2, lambda: runs[0].out)
        yield lambda: (checked.wait(60), None)[1]
        yield picture(2)
        yield lambda: (free.wait(60), None)[1]

    runs: list[Run] = []
    runs.append(run := Run(script(), engine=StubEngine(fail=stuck)))
    wait_for(lambda: run.out == 2)
    clock.move(120)
    assert not run.session.hangs, "nothing comes, and nothing is under way"
    checked.set()
    assert begun.wait(60) and not run.session.hangs
    clock.move(120)
    assert run.session.hangs
    free.set()
    run.end()
    assert not run.session.hangs


def test_a_stalled_sink_does_not_hold_up_the_session() -> None:
    free = threading.Event()
    run = stepping(150, act=lambda shot: (free.wait(120), None)[1])  # more than may wait for the sink
    wait_for(lambda: run.out == 150)
    assert not run.sink.shots
    free.set()
    run.end()


def test_an_engine_that_hangs_at_the_end_costs_no_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink takes a while to close, as films do: it gets that, and what the engine holds is left behind."""
    monkeypatch.setattr("crispstream.live.session.DRAIN_SECONDS", 8.0)
    monkeypatch.setattr("crispstream.live.session.CLOSE_SECONDS", 0.2)
    free = threading.Event()

    def stuck(frame: Frame) -> None:
        if frame.planes[0][0, 0, 0] == 9:
            free.wait(120)

    def script() -> Iterator[Any]:
        yield lambda: wait_for(lambda: runs)
        yield from in_step(10, lambda: runs[0].out)
        while True:
            yield picture(10)
            yield lambda: time.sleep(0.02)

    runs: list[Run] = []
    run = Run(script(), engine=StubEngine(fail=stuck))
    run.engine.close = lambda: (free.wait(120), None)[1]  # type: ignore[method-assign]
    close = run.sink.close
    run.sink.close = lambda: (time.sleep(0.5), close())[1]  # type: ignore[method-assign]
    runs.append(run)
    wait_for(lambda: run.session.status()["frames"]["in"] > 12)
    since = time.monotonic()
    run.session.stop()
    (sink,) = run.end()["sinks"]
    assert time.monotonic() - since < 60, "the engine hangs for two minutes"
    assert run.sink.closed == 1 and sink["state"] == "closed" and sink["frames"] == 9
    free.set()


def test_when_nobody_looks_any_longer_the_session_ends() -> None:
    def gone(_: Shot) -> None:
        raise ClosedPipeError("window closed")

    run = Run(paced(10_000, 50), act=gone)
    run.end()
    assert run.error is None


def test_a_wrong_argument_of_the_source_is_raised() -> None:
    run = Run(iter([UsageError("no such device")]))
    run.end()
    assert isinstance(run.error, UsageError)


def test_an_engine_that_fails_now_and_then_costs_those_frames_only() -> None:
    def now_and_then(frame: Frame) -> None:
        if frame.planes[0][0, 0, 0] % 2:
            raise EngineError("cold")

    run = stepping(
        40, lambda run: run.out + int(run.session.status()["drops"]["failed"]), engine=StubEngine(fail=now_and_then)
    )
    summary = run.end()
    assert (summary["frames"]["out"], summary["drops"]["failed"], run.error) == (20, 20, None)


def test_an_engine_that_always_fails_ends_the_session() -> None:
    def always(_: Frame) -> None:
        raise EngineError("the GPU is gone")

    run = Run(paced(10_000, 200), engine=StubEngine(fail=always))
    summary = run.end()
    assert isinstance(run.error, EngineError) and "the GPU is gone" in str(run.error)
    assert MOST_FAILURES <= summary["drops"]["failed"] <= MOST_FAILURES + 4


def test_an_engine_that_fails_on_all_of_a_short_stream_is_a_failure() -> None:
    def always(_: Frame) -> None:
        raise EngineError("no plan covers 16x16")

    run = stepping(5, lambda run: int(run.session.status()["drops"]["failed"]), engine=StubEngine(fail=always))
    assert run.end()["drops"]["failed"] == 5
    assert isinstance(run.error, EngineError) and "on every frame: no plan covers 16x16" in str(run.error)


def test_a_source_that_never_gave_a_frame_is_a_failure() -> None:
    run = Run()
    wait_for(lambda: run.session.status()["source"]["error"])
    run.session.stop()
    run.end()
    assert isinstance(run.error, InputError) and "no frame came: the connection is lost" in str(run.error)
    assert "secret" not in str(run.error)
    run = Run(iter([]))
    run.end()
    assert isinstance(run.error, InputError) and "no frame came: camera has none" in str(run.error)


def test_a_source_that_was_lost_at_last_is_none() -> None:
    run = Run(iter([picture(1), lost()]))
    wait_for(lambda: run.session.status()["source"]["error"] and run.sink.shots)
    run.session.stop()
    run.end()
    assert run.error is None


def test_a_bug_in_the_middle_ends_the_session_with_its_name() -> None:
    def bug(_: Frame) -> None:
        raise ZeroDivisionError("oops")

    run = Run(paced(10_000, 200), engine=StubEngine(fail=bug))
    run.end()
    assert isinstance(run.error, EngineError) and "ZeroDivisionError" in str(run.error)


@pytest.mark.parametrize("count", [2000])
def test_nothing_grows_with_the_frames(count: int) -> None:
    before = set(threading.enumerate())
    run = Run(iter([picture(i) for i in range(8)] * (count // 8)), engine=StubEngine())
    run.end()
    wait_for(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("crispstream-")])
