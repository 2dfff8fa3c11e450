# SPDX-License-Identifier: Apache-2.0
"""A sink behind a queue and a thread of its own: whatever it does, nobody waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from crispstream.errors import ClosedPipeError, CrispStreamError, UsageError
from crispstream.live.addresses import masked
from crispstream.live.backoff import Backoff
from crispstream.live.figures import Latency
from crispstream.live.protocol import EndOfSink, LiveSink, Shot
from crispstream.policy import BoundedQueue, Closed, Policy

LONGEST_PAUSE = 30.0
"""A full disk or a dead server is tried again this often."""
SETTLED_SHOTS = 50
STALLED_SECONDS = 5.0
"""A sink that takes longer for one shot is called stalled."""

_logger = logging.getLogger("crispstream.live")


class Outlet:
    """``make`` gives a sink, also after the one before has failed. ``capacity``: shots that may wait.

    ``state``: "open", "waiting" (for the first shot), "failed" (tried again unless ``ended``), "closed" (for good);
    ``status`` also knows "stalled". ``frames`` counts the shots that are in the sink, ``dropped`` those that it had no
    time for, that came while it was down or that went with a file it could not finish (a sink's ``unfinished``, where
    it has that); those that a sink does not want are neither.
    """

    def __init__(self, name: str, make: Callable[[], LiveSink], capacity: int) -> None:
        self.name, self._make = name, make
        self._queue: BoundedQueue[Shot] = BoundedQueue(capacity, Policy.NEWEST)
        self._thread = threading.Thread(target=self._work, name=f"crispstream-sink-{name}", daemon=True)
        self.state, self.error = "waiting", ""
        self.frames = self._missed = 0
        self._writing_since: float | None = None
        self._left_behind = False
        self._lock = threading.Lock()
        self.latency = Latency()
        self.ended = threading.Event()

    @property
    def dropped(self) -> int:
        """Shots that did not reach the sink."""
        return self._queue.dropped + self._missed

    def start(self) -> None:
        """Begin to take shots."""
        self._thread.start()

    def offer(self, shot: Shot) -> None:
        """Hand over a shot. Never waits."""
        try:
            self._queue.put(shot)
        except Closed:  # the sink has ended, and others go on
            self._lose()

    def finish(self) -> None:
        """Nothing more comes: write what waits, then close the sink. Does not wait for it."""
        self._queue.close()

    def join(self, seconds: float) -> bool:
        """Whether the sink has closed within so many seconds. If not, it has failed for good."""
        if self.ended.wait(max(0.0, seconds)):
            return True
        with self._lock:
            self._left_behind = True
            self.state, self.error = "failed", "stalled: did not close"
            self._missed += self._writing_since is not None
        self._lose_what_waits()
        _logger.error("%s: stalled, left unfinished", self.name)
        return False

    def status(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "name": self.name,
            "state": "stalled" if self._stalled() else self.state,
            "frames": self.frames,
            "dropped": self.dropped,
            "error": self.error,
            "latency_ms": self.latency.recent(),
        }

    def _stalled(self) -> bool:
        since = self._writing_since
        return not self._left_behind and since is not None and monotonic() - since > STALLED_SECONDS

    def _become(self, state: str, error: str = "") -> None:
        """What it still does once it was left behind changes nothing: the session has told its end."""
        with self._lock:
            if not self._left_behind:
                self.state, self.error = state, error

    def _work(self) -> None:
        sink: LiveSink | None = None
        backoff, retry_at, since_failure = Backoff(LONGEST_PAUSE), 0.0, 0
        try:
            for shot in self._queue:
                if monotonic() < retry_at:
                    self._lose()
                    continue
                try:
                    self._writing_since = monotonic()
                    sink = sink or self._make()
                    wanted = sink.write(shot) is not False
                    self._let_go(shot, frames=int(wanted))
                except Exception as error:
                    self._let_go(shot, missed=1)
                    self._abort(sink)
                    sink = None
                    if isinstance(error, ClosedPipeError):
                        self._become("closed", masked(str(error)))
                        _logger.info("%s: nobody looks any longer", self.name)
                        return
                    if isinstance(error, EndOfSink | UsageError):
                        self._fail(error, "not tried again")
                        return
                    pause = backoff.next()
                    retry_at, since_failure = monotonic() + pause, 0
                    self._fail(error, f"next try in {pause:.1f} s")
                    continue
                since_failure += 1
                if since_failure == SETTLED_SHOTS:
                    backoff.reset()
                if self.state != "open":
                    self._become("open")
                    _logger.info("%s: open", self.name)
                del shot
            if sink is not None:
                try:
                    sink.close()
                except Exception as error:
                    self._abort(sink)
                    self._fail(error, "unfinished")
                    return
            if self.state == "open":
                self._become("closed")
        finally:
            self._lose_what_waits()
            self.ended.set()

    def _let_go(self, shot: Shot, frames: int = 0, missed: int = 0) -> None:
        """The shot in hand is in the sink, lost, or was not wanted."""
        with self._lock:
            self._writing_since = None
            if self._left_behind:  # it counts as lost already
                return
            self.frames += frames
            self._missed += missed
            if frames:
                self.latency.add(monotonic() - shot.captured)

    def _abort(self, sink: LiveSink | None) -> None:
        if sink is None:
            return
        lost = getattr(sink, "unfinished", 0)
        try:
            sink.abort()
        except Exception:
            _logger.debug("aborting %s", sink.name, exc_info=True)
        with self._lock:
            if not self._left_behind:
                self.frames -= lost
                self._missed += lost

    def _lose(self) -> None:
        """A shot that nobody has begun to write is lost."""
        with self._lock:
            self._missed += 1

    def _lose_what_waits(self) -> None:
        """Nobody takes it any longer; nor what still comes."""
        self._queue.close()
        for _ in self._queue:
            self._lose()

    def _fail(self, error: Exception, consequence: str) -> None:
        if not isinstance(error, CrispStreamError):
            _logger.debug("%s", self.name, exc_info=error)
        self._become("failed", masked(str(error)) or type(error).__name__)
        _logger.error("%s: %s; %s", self.name, self.error, consequence)
