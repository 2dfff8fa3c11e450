# SPDX-License-Identifier: Apache-2.0
"""The queue between two stages, and what it does when it is full."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Policy(Enum):
    """What a full queue does with one item more."""

    WAIT = "wait"
    """Hold the producer until there is room: every frame arrives (files)."""
    NEWEST = "newest"
    """Drop the oldest item and count it: latency stays flat (live sources)."""


class Closed(Exception):  # noqa: N818 - a signal, not a failure
    """The other end has finished: nothing more comes, or nothing more is wanted."""


class Aborted(Exception):  # noqa: N818
    """Another stage failed; ``cause`` is what it failed with."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class BoundedQueue(Generic[T]):
    """A first-in, first-out queue of at most ``capacity`` items, for one producer and one consumer thread.

    Either end may ``close`` (what is queued is still delivered) or ``abort`` (what is queued is thrown away and both
    ends get the error). Both wake whoever waits, so no stage is ever left blocked.
    """

    def __init__(self, capacity: int, policy: Policy = Policy.WAIT) -> None:
        if capacity < 1:
            raise ValueError("a queue holds at least one item")
        self._capacity = capacity
        self._policy = policy
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Items thrown away because the queue was full; always 0 under WAIT."""
        return self._dropped

    @property
    def error(self) -> BaseException | None:
        """What the queue was aborted with, or None."""
        return self._error

    def put(self, item: T) -> None:
        """Append an item; under WAIT, block while the queue is full. Raises Closed, or Aborted."""
        with self._changed:
            if self._policy is Policy.WAIT:
                self._changed.wait_for(lambda: len(self._items) < self._capacity or self._closed)
            self._raise_if_aborted()
            if self._closed:
                raise Closed
            if len(self._items) == self._capacity:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """Take the oldest item, waiting for one. Raises Closed when closed and empty, or Aborted."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._closed)
            self._raise_if_aborted()
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        """Items until the queue is closed and empty. Raises Aborted."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            yield item
            del item  # the consumer's reference alone keeps a frame alive

    def close(self) -> None:
        """No more items: ``put`` raises Closed, ``get`` delivers what is left and then raises Closed. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self, error: BaseException) -> None:
        """Throw the items away and raise ``Aborted(error)`` at both ends from now on. The first error stays."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _raise_if_aborted(self) -> None:
        if self._error is not None:
            raise Aborted(self._error)
