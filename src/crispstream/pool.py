# SPDX-License-Identifier: Apache-2.0
"""Many streams in one process that share one engine, a frame of each in turn."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic, sleep
from types import TracebackType

import numpy as np

from crispstream.deblurrer import Deblurrer
from crispstream.errors import UsageError
from crispstream.frame import Frame
from crispstream.gating import SLOTS
from crispstream.policy import Policy
from crispstream.runners.protocol import Outcome

CLOSE_SECONDS = 10.0
"""How long ``DeblurrerPool.close`` waits for the frame that the engine is at."""
_KEPT_LATENCIES = 1000
_REST_SECONDS = 0.001
"""After a drop, the producer lets the others have Python's lock: three that push in a bare loop slowed the pool down
twentyfold without it (9 ms a frame became 190 ms)."""

_logger = logging.getLogger("crispstream")


@dataclass(frozen=True, slots=True)
class StreamStats:
    """Frames of one stream: handed in, restored, dropped (for a newer one, or by ``close``) and failed; what is missing
    from the sum is under way. ``latency_ms``: from ``submit`` to the result, p50, p95, p99 and max of the last 1000
    frames; empty before the first."""

    frames_in: int
    frames_out: int
    dropped: int
    failed: int
    latency_ms: dict[str, float]


class DeblurrerPool:
    """Streams that take turns on ``deblurrer``: whoever has a frame waiting gets one restored per round.

    So n streams that push as fast as they can get a share of 1/n each, and one that pushes faster only drops its own
    frames, or waits itself. Streams may differ in size; on a GPU, in at most three layouts (size, format, colour), as
    more would be opened again at every turn. The Deblurrer stays the caller's, to use beside the pool and to close
    after it. Safe to share between threads.
    """

    def __init__(self, deblurrer: Deblurrer) -> None:
        self._deblurrer = deblurrer
        self._lock = threading.Lock()  # of all streams too; never held while the engine works
        self._work = threading.Condition(self._lock)
        self._streams: deque[PoolStream] = deque()
        self._under_way = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="crispstream-pool", daemon=True)
        self._thread.start()

    def open_stream(self, policy: Policy = Policy.WAIT, capacity: int = 2) -> PoolStream:
        """A stream of consecutive frames of one video, of which at most ``capacity`` wait for their turn.

        ``policy``, one frame more: WAIT holds the producer (files), NEWEST drops the oldest (live). Raises UsageError
        after ``close``, ValueError for a capacity under 1.
        """
        if capacity < 1:
            raise ValueError("a stream holds at least one frame")
        with self._lock:
            if self._closed:
                raise UsageError("this DeblurrerPool is closed")
            stream = PoolStream(self, policy, capacity)
            self._streams.append(stream)
            return stream

    def close(self) -> None:
        """Close all streams. Waits for the frame that the engine is at, CLOSE_SECONDS at most. Idempotent."""
        with self._lock:
            self._closed = True
            for stream in tuple(self._streams):
                stream._leave()
            self._work.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            _logger.warning("the engine has not finished its frame within %g s; the pool is left to it", CLOSE_SECONDS)

    def __enter__(self) -> DeblurrerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while self._start_next():
            pass

    def _start_next(self) -> bool:
        """Wait for the next frame and hand it to the engine; False once closed. Its own method, so that nothing here
        keeps a frame alive while there is no work."""
        with self._lock:
            while (stream := self._next()) is None and not self._closed:
                self._work.wait()
            if stream is None:
                return False
            frame, since = stream._take()
            self._under_way += 1
        try:
            # SLOTS frames of all streams are under way at most, so this never waits for an earlier frame of its own.
            future = stream._state.submit(frame)._future
        except BaseException as error:
            future = Future()
            future.set_exception(error)
        with self._lock:
            stream._under_way.append((future, since))
        future.add_done_callback(lambda _: self._deliver(stream))
        return True

    def _next(self) -> PoolStream | None:
        """The stream whose turn it is, now the last in the row; None where no frame can be started."""
        if self._closed or self._under_way == SLOTS:
            return None
        for _ in range(len(self._streams)):
            self._streams.rotate(-1)
            if self._streams[-1]._ready:
                return self._streams[-1]
        return None

    def _deliver(self, stream: PoolStream) -> None:
        """One frame of ``stream`` is done, in whatever thread."""
        with self._lock:
            self._under_way -= 1
            stream._collect()
            self._work.notify()


class PoolStream:
    """One stream of a pool: ``submit`` frames, iterate over the results, which come in order.

    Both from any thread. Results that nobody fetches hold up their own stream only: ``capacity`` of them are kept (on a
    GPU up to SLOTS more), then its frames wait or are dropped. A frame that the engine cannot do raises its error where
    its result would have come; the iteration may go on after it.
    """

    def __init__(self, pool: DeblurrerPool, policy: Policy, capacity: int) -> None:
        self._pool, self._policy, self._capacity = pool, policy, capacity
        self._state = pool._deblurrer.open_stream()
        self._changed = threading.Condition(pool._lock)
        self._waiting: deque[tuple[Frame, float]] = deque()
        self._under_way: deque[tuple[Future[Outcome], float]] = deque()
        self._results: deque[Frame | BaseException] = deque()
        self._finished = self._closed = False
        self._in = self._out = self._dropped = self._failed = 0
        self._latencies: deque[float] = deque(maxlen=_KEPT_LATENCIES)

    @property
    def stats(self) -> StreamStats:
        """What became of the frames so far."""
        with self._pool._lock:
            latencies = 1000 * np.array(self._latencies)
            counts = (self._in, self._out, self._dropped, self._failed)
        named = {"p50": 50, "p95": 95, "p99": 99, "max": 100} if latencies.size else {}
        return StreamStats(*counts, {name: round(float(np.percentile(latencies, q)), 3) for name, q in named.items()})

    def submit(self, frame: Frame) -> None:
        """Hand in the next frame; its memory is read until its result is there. Under WAIT, block while the queue is
        full. Raises UsageError after ``finish`` or ``close``, also where it was waiting."""
        with self._changed:
            if self._policy is Policy.WAIT:
                self._changed.wait_for(lambda: len(self._waiting) < self._capacity or self._finished)
            if self._finished:
                raise UsageError("this stream takes no more frames", "open another one with pool.open_stream()")
            full = len(self._waiting) == self._capacity
            if full:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((frame, monotonic()))
            self._in += 1
            self._pool._work.notify()
        if full:
            sleep(_REST_SECONDS)

    def __iter__(self) -> PoolStream:
        return self

    def __next__(self) -> Frame:
        """The next restored frame; waits for it. Ends after ``close``, and after ``finish`` with the last result.
        Raises EngineError for a frame that failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._over)
            if not self._results:
                self._leave()
                raise StopIteration
            result = self._results.popleft()
            self._pool._work.notify()
        if isinstance(result, BaseException):
            raise result
        return result

    def finish(self) -> None:
        """No more frames come; what was handed in is still restored and can be fetched."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody wants more results: drop everything, wake whoever waits. Idempotent, and never waits itself."""
        with self._changed:
            self._leave()

    def __enter__(self) -> PoolStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The rest is called with the pool's lock held.

    @property
    def _ready(self) -> bool:
        return bool(self._waiting) and len(self._results) < self._capacity

    @property
    def _over(self) -> bool:
        """Whether no result will come any more."""
        done = self._out + self._failed + self._dropped
        return self._closed or (self._finished and done == self._in)

    def _take(self) -> tuple[Frame, float]:
        self._changed.notify_all()
        return self._waiting.popleft()

    def _collect(self) -> None:
        """Results in order: a frame that fails may be done before the one it follows."""
        while self._under_way and self._under_way[0][0].done():
            future, since = self._under_way.popleft()
            error = future.exception()
            if self._closed:
                self._dropped += 1
                continue
            if error is None:
                self._out += 1
                self._latencies.append(monotonic() - since)
            else:
                self._failed += 1
            self._results.append(future.result().frame if error is None else error)
        self._changed.notify_all()

    def _leave(self) -> None:
        if self._closed:
            return
        self._finished = self._closed = True
        self._dropped += len(self._waiting)
        self._waiting.clear()
        self._results.clear()
        self._pool._streams.remove(self)
        self._changed.notify_all()
