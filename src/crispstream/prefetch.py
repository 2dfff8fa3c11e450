# SPDX-License-Identifier: Apache-2.0
"""Run an iterable in a thread of its own, a few items ahead of whoever consumes it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from crispstream.policy import BoundedQueue, Closed

T = TypeVar("T")


@contextmanager
def prefetch(items: Iterable[T], capacity: int = 2) -> Iterator[Iterator[T]]:
    """Iterator over ``items``, at most ``capacity`` ahead. An exception of theirs is raised after the items before it.

    Leaving the context early stops after the item being made; it waits for that one.
    """
    queue: BoundedQueue[T] = BoundedQueue(capacity)

    failures: list[BaseException] = []

    def work() -> None:
        try:
            for item in items:
                queue.put(item)
        except Closed:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            queue.close()

    def drain() -> Iterator[T]:
        yield from queue
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work, name="crispstream-prefetch", daemon=True)
    thread.start()
    try:
        yield drain()
    finally:
        queue.close()
        thread.join()
