# SPDX-License-Identifier: Apache-2.0
"""Signals that end something, for as long as it runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """``handler`` for those signals that are not ignored (nohup ignores one); afterwards what was there before, except
    where the handler has put something else in its own place.

    For the main thread alone. The handler may take no lock: the interrupted code may hold it.
    """
    watched = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in watched}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, old)
