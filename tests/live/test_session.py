# SPDX-License-Identifier: Apache-2.0
"""From source to sinks: latency that stays flat, drops that are counted, ends that are clean."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from stand_ins import KeepingSink, ScriptedSource, StubEngine, lost, paced, picture, wait_for

from crispstream.errors import ClosedPipeError, EngineError, InputError, UsageError
from crispstream.frame import Frame
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import Shot
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

    def _run(self) -> None:
        try:
            self.session.run(tick=0.02)
        except BaseException as error:
            self.error = error

    def end(self, seconds: float = 15.0) -> dict[str, Any]:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.session.summary()


def test_every_frame_arrives_where_the_engine_keeps_up() -> None:
    run = Run(paced(50, 25))
    summary = run.end()
    assert [s.number for s in run.sink.shots] == list(range(50))
    for one in run.sink.shots:
        assert one.after.planes[0][0, 0, 0] == one.before.planes[0][0, 0, 0] + 1
        assert one.head is not None and one.head.shape == (2, 2, 2)
    assert summary["frames"] == {"in": 50, "out": 50}
    assert summary["drops"] == {"source": 0, "newer": 0, "late": 0, "failed": 0}
    assert summary["shares"] == {"person": 0.25, "blur": 0.5}
    assert run.error is None and run.sink.closed == 1 and run.engine.closed == 1


def test_latency_stays_flat_with_a_slow_engine_and_every_drop_is_counted() -> None:
    run = Run(paced(150, 100), engine=StubEngine(0.1))
    summary = run.end()
    assert summary["frames"]["out"] + summary["drops"]["newer"] == 150
    assert 10 <= summary["frames"]["out"] <= 20
    # Two frames may wait and one computes; scheduling on a busy machine is the rest.
    assert summary["latency_ms"]["max"] < 3 * 100
    assert [s.number for s in run.sink.shots] == sorted(s.number for s in run.sink.shots)


def test_what_a_source_left_out_is_a_drop_over_all_connections() -> None:
    def lossy(count: int) -> Iterator[Any]:
        yield lambda: wait_for(lambda: begun)
        yield picture(1)
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
    run = Run(
        iter([picture(1), lambda: time.sleep(0.1), lost()]),
        iter([picture(10), picture(11), picture(12), picture(13), lambda: time.sleep(0.5)]),
        engine=StubEngine(0.15),
    )
    run.end()
    first = {f.planes[0][0, 0, 0]: f.discontinuity for f in run.engine.seen}
    later = [value for value in first if value >= 10]
    assert first[1] and first[later[0]] and not any(first[value] for value in later[1:])


def test_stop_finishes_what_is_under_way() -> None:
    run = Run(paced(10_000, 50))
    wait_for(lambda: len(run.sink.shots) > 5)
    run.session.stop()
    summary = run.end()
    assert run.error is None and run.sink.closed == 1
    frames = summary["frames"]
    assert frames["out"] == len(run.sink.shots) and frames["in"] - frames["out"] <= 3


def test_an_engine_that_hangs_is_noticed_and_quiet_times_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crispstream.live.session.HUNG_SECONDS", 0.2)
    free = threading.Event()

    def stuck(frame: Frame) -> None:
        if frame.planes[0][0, 0, 0] == 9:
            free.wait(10)

    steps = [picture(1), lambda: time.sleep(0.5), picture(2), lambda: time.sleep(0.5), picture(9)]
    run = Run(iter([*steps, lambda: time.sleep(1.5)]), engine=StubEngine(fail=stuck))
    seen = []
    while run.session.status()["frames"]["in"] < 3:
        seen.append(run.session.hangs)
        time.sleep(0.01)
    assert not any(seen)
    wait_for(lambda: run.session.hangs)
    free.set()
    run.end()
    assert not run.session.hangs


def test_a_stalled_sink_does_not_hold_up_the_session() -> None:
    free = threading.Event()
    run = Run(paced(60, 100), act=lambda shot: (free.wait(2), None)[1])
    # A busy machine may drop a frame before the engine; a session that waited for its sink would lose nearly all.
    wait_for(lambda: run.session.status()["frames"]["in"] == 60 and run.session.status()["frames"]["out"] > 50)
    assert not run.sink.shots
    free.set()
    run.end()


def test_an_engine_that_hangs_at_the_end_costs_no_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink takes a second to close, as films do: it gets that, and what the engine holds is left behind."""
    monkeypatch.setattr("crispstream.live.session.DRAIN_SECONDS", 4.0)
    monkeypatch.setattr("crispstream.live.session.CLOSE_SECONDS", 0.2)
    free = threading.Event()

    def stuck(frame: Frame) -> None:
        if frame.planes[0][0, 0, 0] == 9:
            free.wait(30)

    run = Run(paced(10_000, 50), engine=StubEngine(fail=stuck))
    run.engine.close = lambda: (free.wait(30), None)[1]  # type: ignore[method-assign]
    close = run.sink.close
    run.sink.close = lambda: (time.sleep(1), close())[1]  # type: ignore[method-assign]
    wait_for(lambda: run.session.status()["frames"]["in"] > 12)
    since = time.monotonic()
    run.session.stop()
    (sink,) = run.end()["sinks"]
    assert time.monotonic() - since < 6
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

    run = Run(paced(40, 100), engine=StubEngine(fail=now_and_then))
    summary = run.end()
    out, drops = summary["frames"]["out"], summary["drops"]
    assert out + drops["failed"] + drops["newer"] == 40 and min(out, drops["failed"]) > 15 and run.error is None


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

    run = Run(paced(5, 20), engine=StubEngine(fail=always))
    assert run.end()["drops"]["failed"] > 3
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
    run = Run(iter([picture(i) for i in range(8)] * (count // 8)), engine=StubEngine())
    run.end()
    names = {thread.name for thread in threading.enumerate()}
    assert not {n for n in names if n.startswith("crispstream-")}, names
