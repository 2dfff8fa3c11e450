# SPDX-License-Identifier: Apache-2.0
"""The bounded queue: order, both policies, and no one left waiting."""

from __future__ import annotations

import threading

import pytest

from crispstream.policy import Aborted, BoundedQueue, Closed, Policy


def test_wait_keeps_everything_in_order() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)

    def produce() -> None:
        for index in range(500):
            queue.put(index)
        queue.close()

    producer = threading.Thread(target=produce)
    producer.start()
    assert list(queue) == list(range(500))
    producer.join()
    assert queue.dropped == 0


def test_wait_holds_the_producer_at_capacity() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    third = threading.Event()

    def produce() -> None:
        for index in range(3):
            queue.put(index)
        third.set()

    producer = threading.Thread(target=produce)
    producer.start()
    assert not third.wait(0.1)
    assert queue.get() == 0
    assert third.wait(60)
    producer.join()


def test_newest_drops_the_oldest_and_counts() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3, Policy.NEWEST)
    for index in range(10):
        queue.put(index)
    queue.close()
    assert list(queue) == [7, 8, 9]
    assert queue.dropped == 7


def test_close_delivers_what_is_left_and_then_ends() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    queue.put(1)
    queue.close()
    queue.close()
    assert queue.get() == 1
    with pytest.raises(Closed):
        queue.get()
    with pytest.raises(Closed):
        queue.put(2)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("abort", [True, False])
def test_whoever_waits_is_woken(full: bool, abort: bool) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    if full:
        queue.put(0)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            if full:
                queue.put(1)
            else:
                queue.get()
        except (Aborted, Closed) as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    cause = RuntimeError("the disk is full")
    if abort:
        queue.abort(cause)
    else:
        queue.close()
    waiter.join(60)
    assert not waiter.is_alive()
    assert isinstance(raised[0], Aborted if abort else Closed)
    if abort:
        assert isinstance(raised[0], Aborted) and raised[0].cause is cause


def test_abort_throws_items_away_and_the_first_error_stays() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    queue.put(1)
    first = ValueError("first")
    queue.abort(first)
    queue.abort(ValueError("second"))
    with pytest.raises(Aborted, match="first"):
        queue.get()
    with pytest.raises(Aborted):
        queue.put(2)
    assert queue.error is first


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        BoundedQueue(0)
