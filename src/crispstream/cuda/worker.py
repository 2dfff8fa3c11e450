# SPDX-License-Identifier: Apache-2.0
"""The one thread that makes, uses and frees the objects of a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from crispstream.cuda.device import Device
from crispstream.cuda.loop import Loop, Watchable

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A thread with GPU ``index``'s primary context, which other libraries of this process share.

    pycuda's objects can only be used and freed in the thread that made them; ``call`` and ``post`` bring work there.
    Raises EngineError where the GPU cannot be opened, and leaves no thread. Any thread may use a worker; ``close``
    ends it, as do the end of the program and the garbage collector.
    """

    device: Device
    """The GPU. Its facts may be read from any thread; everything else belongs to the worker's."""

    def __init__(self, index: int) -> None:
        loop = Loop(f"crispstream-gpu{index}")
        try:
            self.device = loop.call(_open, loop, index)
        except BaseException:
            loop.stop()
            raise
        self._loop = loop
        # Without waiting: the collector may run in a thread that holds a lock which the loop needs to end.
        weakref.finalize(self, loop.stop, wait=False).atexit = False

    def call(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Run ``function`` in the worker's thread, wait, return what it returns or raise what it raises.

        From the worker's own thread it runs at once. Raises EngineError after ``close``.
        """
        return self._loop.call(function, *arguments, **keywords)

    def post(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Run ``function`` in the worker's thread, after what was posted before. Raises EngineError after ``close``."""
        return self._loop.post(function, *arguments, **keywords)

    def when(
        self, event: Watchable, then: Callable[[], None], failed: Callable[[BaseException], None] | None = None
    ) -> None:
        """Call ``then`` in the worker's thread once ``event`` is done; first come, first served. Worker's thread only.

        Where the event reports an error, or ``then`` raises one, ``failed`` is called with it (None: it is logged).
        """
        self._loop.when(event, then, failed)

    def finish_oldest(self) -> bool:
        """Wait for the oldest watched event and call its ``then``; False: nothing is watched. Worker's thread only."""
        return self._loop.finish_oldest()

    def close(self) -> None:
        """Finish what is posted and watched, free what is left, release the context, end the thread.

        Idempotent, from any thread. From the worker's own it ends after the function that runs now.
        """
        self._loop.stop()


def _open(loop: Loop, index: int) -> Device:
    # Here, not in the caller's thread, which may be interrupted while it waits: a thread must not end with a context.
    device = Device(index)
    loop.at_end = device.close
    return device
