# SPDX-License-Identifier: Apache-2.0
"""The worker's thread: how it lives, in which order it works, how it ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from emulation.fake_pycuda import FakeGpu
from emulation.fixture import EmulatedGpu

from crispstream.cuda.loop import Loop
from crispstream.cuda.worker import Worker
from crispstream.errors import EngineError

SECONDS = 60
"""What takes milliseconds has taken too long after these."""


class Mark:
    """A watched event in the hands of the test."""

    def __init__(self, error: Exception | None = None) -> None:
        self.reached, self.error = threading.Event(), error

    def done(self) -> bool:
        if self.error:
            raise self.error
        return self.reached.is_set()

    def synchronize(self) -> None:
        if self.error:
            raise self.error
        assert self.reached.wait(SECONDS)


def reached() -> Mark:
    mark = Mark()
    mark.reached.set()
    return mark


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("crispstream-gpu")]


def test_facts(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu(FakeGpu("Left", (8, 7), 8, integrated=True), FakeGpu("Right", (9, 0), 132), driver_version=12060)
    for index, expected in enumerate([("Left", (8, 7), 8, True), ("Right", (9, 0), 132, False)]):
        worker = Worker(index)
        gpu = worker.device
        assert (gpu.name, gpu.compute_capability, gpu.multiprocessors, gpu.integrated) == expected
        assert (gpu.index, gpu.driver_version) == (index, 12060)
        worker.close()


def test_open_and_close_a_hundred_times(emulated_gpu: EmulatedGpu) -> None:
    machine = emulated_gpu()
    for _ in range(100):
        worker = Worker(0)

        def fill(device: Any = worker.device) -> None:
            stream, event = device.stream(), device.event()
            device.allocate(1000), device.pin(1000)
            event.record(stream)

        worker.call(fill)
        assert machine.leaks()["context"] == 1
        worker.close()
        assert not machine.leaks(), "close frees what is left"
    assert not workers()


def test_a_worker_that_cannot_open_leaves_no_thread(emulated_gpu: EmulatedGpu) -> None:
    machine = emulated_gpu()
    with pytest.raises(EngineError, match="no GPU cuda:3") as caught:
        Worker(3)
    assert "cuda:0 (Emulated GPU)" in caught.value.hint
    machine.broken = True  # retaining works, making the context current does not
    with pytest.raises(EngineError, match="launch failure"):
        Worker(0)
    machine.broken = False
    assert not workers()


def test_calls_run_in_one_thread_in_order(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    worker = Worker(0)
    seen: list[int] = []
    futures = [worker.post(seen.append, i) for i in range(200)]
    assert worker.call(threading.get_ident) != threading.get_ident()
    assert seen == list(range(200)) and all(future.done() for future in futures)
    # From the worker's own thread a call runs at once; waiting for itself would take for ever.
    assert worker.call(lambda: worker.call(threading.get_ident)) == worker.call(threading.get_ident)
    worker.close()


def test_an_error_arrives_with_its_traceback(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    worker = Worker(0)

    def fails_here() -> None:
        raise EngineError("what went wrong", "what to do")

    with pytest.raises(EngineError, match="what went wrong") as caught:
        worker.call(fails_here)
    assert "fails_here" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert worker.call(lambda: 5) == 5, "an error does not end the worker"
    worker.close()


def test_what_belongs_to_the_gpu_is_made_in_its_thread(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    worker = Worker(0)
    for make in (worker.device.stream, worker.device.event, lambda: worker.device.allocate(1)):
        with pytest.raises(EngineError, match="invalid device context"):
            make()
    worker.close()


def test_after_close(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    worker = Worker(0)
    last = worker.post(lambda: time.sleep(0.02) or "done")
    closers = [threading.Thread(target=worker.close) for _ in range(4)]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join(SECONDS)
    assert last.result(0) == "done", "what was posted before is done before"
    worker.close()
    for use in (worker.call, worker.post):
        with pytest.raises(EngineError, match="closed"):
            use(int)


def test_closed_from_its_own_thread(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu()
    worker = Worker(0)
    worker.call(worker.close)
    worker.close()
    assert not workers()


def test_dropped_workers_end(emulated_gpu: EmulatedGpu) -> None:
    machine = emulated_gpu()
    worker: Any = Worker(0)
    circle = [worker]
    circle.append(circle)
    worker.call(worker.device.stream)
    del worker, circle
    gc.collect()
    for thread in workers():
        thread.join(SECONDS)
    assert not workers() and not machine.leaks()


def test_two_workers_in_two_threads(emulated_gpu: EmulatedGpu) -> None:
    """Their objects live side by side; each in its own thread, also on one GPU."""
    machine = emulated_gpu(FakeGpu(), FakeGpu())
    errors: list[BaseException] = []

    def use(index: int) -> None:
        try:
            for _ in range(10):
                worker = Worker(index % 2)
                streams = [worker.call(worker.device.stream) for _ in range(5)]
                assert len({stream.handle for stream in streams}) == 5
                worker.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not errors and not machine.leaks()


def test_follow_ups_come_in_order() -> None:
    """The second mark is reached first, but what was watched first comes first."""
    loop, seen, marks = Loop("test"), [], [Mark(), Mark(), Mark()]
    finished: Future[str] = Future()
    for i, mark in enumerate(marks):
        loop.call(loop.when, mark, lambda i=i: seen.append(i))
    loop.call(loop.when, reached(), lambda: finished.set_result(threading.current_thread().name))
    marks[1].reached.set()
    assert loop.call(lambda: list(seen)) == []
    marks[0].reached.set()
    while len(loop.call(lambda: list(seen))) < 2:
        time.sleep(0.001)
    assert seen == [0, 1]
    marks[2].reached.set()
    assert finished.result(SECONDS) == "test" and seen == [0, 1, 2]
    loop.stop()


def test_follow_ups_do_not_wait_for_the_queue_to_be_empty() -> None:
    """A caller that always has more work must still get its results."""
    loop, seen = Loop("test"), []
    stop = threading.Event()

    def busy() -> None:
        if not stop.is_set():
            loop.post(busy)

    mark = Mark()
    loop.call(loop.when, mark, lambda: seen.append(1))
    loop.call(busy)
    mark.reached.set()
    end = time.monotonic() + SECONDS
    while not seen and time.monotonic() < end:
        time.sleep(0.001)
    stop.set()
    loop.stop()
    assert seen == [1]


def test_finish_oldest_waits_for_one() -> None:
    loop, seen, marks = Loop("test"), [], [Mark(), Mark()]

    def watch_and_finish() -> bool:
        for i, mark in enumerate(marks):
            loop.when(mark, lambda i=i: seen.append(i))
        marks[0].reached.set()
        return loop.finish_oldest()

    assert loop.call(watch_and_finish)
    assert seen == [0]
    marks[1].reached.set()
    loop.stop()
    assert seen == [0, 1], "what is watched is finished before the loop ends"


def test_closing_with_work_in_flight() -> None:
    """Queued work first, then what is watched, then ``at_end``."""

    class ReachedWhenWaitedFor(Mark):
        def synchronize(self) -> None:
            self.reached.set()

    loop, seen, mark = Loop("test"), [], ReachedWhenWaitedFor()
    loop.at_end = lambda: seen.append("end")
    loop.call(loop.when, mark, lambda: seen.append("watched"))
    posted = loop.post(seen.append, "posted")
    loop.stop()
    assert seen == ["posted", "watched", "end"] and posted.done()


@pytest.mark.parametrize("asked", ["polled", "finished"])
def test_an_event_that_fails_reports_it_once(asked: str) -> None:
    loop, errors, calls = Loop("test"), [], []
    bad = Mark(EngineError("launch failed"))

    def watch() -> None:
        loop.when(bad, lambda: calls.append("then"), errors.append)
        if asked == "finished":
            loop.finish_oldest()

    loop.call(watch)
    loop.stop()
    assert [str(error) for error in errors] == ["launch failed"] and not calls


def test_a_follow_up_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop("test")
    loop.call(loop.when, reached(), lambda: 1 / 0)
    loop.stop()
    assert "ZeroDivisionError" in caplog.text


def test_nobody_waits_for_ever(emulated_gpu: EmulatedGpu) -> None:
    """Posting and closing at the same time: every future ends, with a result or refused."""
    emulated_gpu()
    for _ in range(10):
        worker, futures = Worker(0), []

        def post(worker: Worker = worker, futures: list[Any] = futures) -> None:
            for _ in range(2000):
                try:
                    futures.append(worker.post(int))
                except EngineError:
                    return

        threads = [threading.Thread(target=post) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(futures) < 100:
            time.sleep(0)
        worker.close()
        for thread in threads:
            thread.join(SECONDS)
        for future in futures:
            error = future.exception(SECONDS)
            assert error is None or "closed" in str(error)


AT_EXIT = """
import sys
sys.path[:0] = {paths!r}
import threading
from crispstream.cuda.loop import Loop
loop = Loop("left open")
loop.at_end = lambda: print("ended", flush=True)
class Never:
    def done(self): return False
    def synchronize(self): print("finished", flush=True)
loop.call(loop.when, Never(), lambda: print("followed up", flush=True))
print("leaving", flush=True)
"""


def test_the_end_of_the_program_closes_what_was_left_open() -> None:
    paths = [str(Path(__file__).parents[2] / "src")]
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT.format(paths=paths)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n") == ["leaving", "finished", "followed up", "ended", ""]
