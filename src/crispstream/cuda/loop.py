# SPDX-License-Identifier: Apache-2.0
"""A thread that runs what it is handed, in order, and follows up on what it watches. Knows nothing of CUDA."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from crispstream.errors import EngineError

POLL_SECONDS = 100e-6
"""How often a watched event is looked at: an eighth of what the fastest frame takes."""

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("crispstream")
_running: set[Loop] = set()


class Watchable(Protocol):
    """What can be waited for: an ``Event``."""

    def done(self) -> bool: ...
    def synchronize(self) -> None: ...


class _Watched(NamedTuple):
    event: Watchable
    then: Callable[[], None]
    failed: Callable[[BaseException], None] | None


class _Task(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class Loop:
    """One daemon thread. ``at_end``, set from within the thread, is the last thing that it does."""

    def __init__(self, name: str) -> None:
        # Both are reentrant: the garbage collector may stop a loop at any point of any thread. Not a SimpleQueue: its
        # ``get`` with a short timeout can wait for ever (CPython passes on what is left of it, even where negative).
        self._tasks: deque[_Task | None] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._watched: deque[_Watched] = deque()
        self._stopping = self._ended = False
        self.at_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _running.add(self)
        self._thread.start()

    def call(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Run in the thread, wait, return or raise. From the thread itself: run now."""
        if self.inside:
            return function(*arguments, **keywords)
        return self.post(function, *arguments, **keywords).result()

    def post(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Run in the thread, after what was posted before. Raises EngineError once the loop is stopping."""
        if self._stopping:
            raise _closed()
        future: Future[T] = Future()
        self._put(_Task(future, function, arguments, keywords))
        if self._ended:  # between the look at _stopping and the put
            self._refuse()
        return future

    def when(
        self, event: Watchable, then: Callable[[], None], failed: Callable[[BaseException], None] | None = None
    ) -> None:
        """Call ``then`` once ``event`` and all that were watched before are done. In the thread only.

        Where the event reports an error, or ``then`` raises one, ``failed`` is called with it (None: it is logged).
        """
        self._watched.append(_Watched(event, then, failed))

    def finish_oldest(self) -> bool:
        """Wait for the oldest watched event and follow up. In the thread only. False: nothing is watched."""
        if not self._watched:
            return False
        watched = self._watched.popleft()
        self._follow_up(watched, watched.event.synchronize)
        return True

    @property
    def inside(self) -> bool:
        """True in the loop's own thread."""
        return threading.current_thread() is self._thread

    def stop(self, wait: bool = True) -> None:
        """Finish what was posted and is watched, then end. Idempotent, from any thread; its own cannot wait."""
        self._stopping = True
        self._put(None)
        if wait and not self.inside:
            self._thread.join()

    def _put(self, task: _Task | None) -> None:
        self._tasks.append(task)
        with suppress(RuntimeError):  # it was woken before and has not looked yet
            self._wake.release()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            _carry_out(*task)
            del task  # what it holds must not live on while the queue is empty
        while self.finish_oldest():
            pass
        try:
            self.at_end()
        except Exception:
            _logger.exception("closing the GPU failed")
        self._ended = True
        self._refuse()
        _running.discard(self)

    def _next(self) -> _Task | None:
        while True:
            while self._watched and (watched := self._done()):
                self._follow_up(watched)
                watched = None  # what it holds must not live on while the queue is empty
            if self._tasks:
                return self._tasks.popleft()
            self._wake.acquire(timeout=POLL_SECONDS if self._watched else -1)

    def _done(self) -> _Watched | None:
        """Take the oldest if its event is done; one whose event cannot tell is done with, too."""
        with suppress(Exception):  # ``_follow_up`` meets the same error and reports it
            if not self._watched[0].event.done():
                return None
        return self._watched.popleft()

    def _follow_up(self, watched: _Watched, wait: Callable[[], object] | None = None) -> None:
        try:
            (wait or watched.event.done)()
            watched.then()
        except BaseException as error:
            if watched.failed is None:
                _logger.exception("following up on GPU work failed")
            else:
                watched.failed(error)

    def _refuse(self) -> None:
        with suppress(IndexError):
            while True:
                task = self._tasks.popleft()
                if task is not None and task.future.set_running_or_notify_cancel():
                    task.future.set_exception(_closed())


def _carry_out(
    future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*arguments, **keywords)
    except BaseException as error:
        future.set_exception(error)
        del future  # the error's traceback holds this frame: no cycle, so that nothing waits for the collector
    else:
        future.set_result(result)


def _closed() -> EngineError:
    return EngineError("the GPU worker is closed", "open the engine again")


@atexit.register
def _stop_all() -> None:
    """A daemon thread that outlives the interpreter is cut off, and pycuda aborts where a context is left over."""
    for loop in list(_running):
        loop.stop()
