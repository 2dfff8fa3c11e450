# SPDX-License-Identifier: Apache-2.0
"""Streams, and the events that order them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crispstream.cuda import libcuda
from crispstream.cuda.driver import guard

if TYPE_CHECKING:
    from crispstream.cuda.device import Device

# CU_STREAM_NON_BLOCKING, which pycuda does not name. A blocking stream would be ordered with the legacy default stream
# by itself, which external producers use; but then a PyTorch program in this process would stop our copies and
# computing from running side by side, and any use of its default stream would be an error while we capture a graph,
# in its code and in ours. So frames from outside are ordered by events (``Stream.follow``).
_NON_BLOCKING = 1


class Stream:
    """Work of one stream runs in order. ``handle``: a CUstream. Made, used and closed in the worker's thread."""

    def __init__(self, device: Device) -> None:
        self._drv, self._device = device.drv, device
        self.pycuda: Any = guard(self._drv, self._drv.Stream, _NON_BLOCKING)
        self.handle = int(self.pycuda.handle)
        device.own(self)

    def synchronize(self) -> None:
        """Wait until the stream has nothing left to do. Raises EngineError where its work failed."""
        guard(self._drv, self.pycuda.synchronize)

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for ``event``'s last record. Returns at once. Raises EngineError."""
        guard(self._drv, self.pycuda.wait_for_event, event.pycuda)

    def follow(self, foreign: int) -> None:
        """Let what is enqueued from now on wait for what is on another library's stream (a CUstream) now.

        Returns at once. Raises EngineError where that stream belongs to another context.
        """
        libcuda.order(foreign, self.handle)

    def close(self) -> None:
        """Destroy the stream once its work is done. Idempotent."""
        self.pycuda = None  # pycuda destroys a stream with its last reference
        self._device.disown(self)


class Event:
    """A mark in a stream. Made, used and closed in the worker's thread."""

    def __init__(self, device: Device, timing: bool) -> None:
        self._drv, self._device = device.drv, device
        flags = self._drv.event_flags.BLOCKING_SYNC  # a thread that waits leaves the processor to others
        if not timing:
            flags |= self._drv.event_flags.DISABLE_TIMING
        self.pycuda: Any = guard(self._drv, self._drv.Event, int(flags))
        device.own(self)

    def record(self, stream: Stream) -> None:
        """Move the mark to what ``stream`` has been given until now. Raises EngineError."""
        guard(self._drv, self.pycuda.record, stream.pycuda)

    def done(self) -> bool:
        """True when the work before the mark is done, or nothing was marked. Raises EngineError where it failed."""
        return bool(guard(self._drv, self.pycuda.query))

    def synchronize(self) -> None:
        """Wait until the work before the mark is done. Raises EngineError where it failed."""
        guard(self._drv, self.pycuda.synchronize)

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two marks that are done, of events made with ``timing``. Raises EngineError."""
        return float(guard(self._drv, self.pycuda.time_since, earlier.pycuda))

    def close(self) -> None:
        """Destroy the event. Idempotent."""
        self.pycuda = None
        self._device.disown(self)
