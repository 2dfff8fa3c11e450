# SPDX-License-Identifier: Apache-2.0
"""Frames from a source that may fail, freeze or hang: reconnect, and go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame
from crispstream.live.addresses import masked
from crispstream.live.backoff import Backoff
from crispstream.live.figures import Rate
from crispstream.live.protocol import CAPTURED, AccessError, EndOfSource, HangingError, LiveSource, Timeouts

GRACE_SECONDS = 2.0
"""What a source may need beyond its timeouts before it counts as stuck."""
SETTLED_SECONDS = 10.0
"""A connection that held so long begins the waiting anew."""
MOST_STUCK = 4
"""Threads that hang in foreign code are left behind; with so many of them no further connection is tried."""
REFUSED_SECONDS = 30.0
"""A camera locks out who tries a wrong password again and again."""
REPEAT_SECONDS = 60.0
BLOCKED_SECONDS = 60.0
"""And after so long it is given up."""

_logger = logging.getLogger("crispstream.live")


class Receiver:
    """Delivers the frames of one connection after the other: ``deliver(frame, captured)`` from a thread.

    ``make`` gives a closed source, one for each connection; ``connections`` counts those that brought frames.
    ``dropped`` and ``damaged`` are those of all sources so far, ``reconnects`` counts tries after the first one.
    ``name`` has no credentials. Between ``start`` and ``stop``; ``ended`` is set when nothing more will come, and
    ``failure`` is then why, if it is not the source's natural end: UsageError, or InputError where everything hangs.
    """

    def __init__(
        self, name: str, make: Callable[[], LiveSource], deliver: Callable[[Frame, float], None], timeouts: Timeouts
    ) -> None:
        self.name, self._make, self._deliver, self._timeouts = name, make, deliver, timeouts
        self._stop = threading.Event()
        self._connection: _Connection | None = None
        self._counting = threading.Lock()
        self._before = 0, 0  # dropped and damaged in earlier connections
        self._stuck: list[_Connection] = []
        self._hanging_since: float | None = None
        self._backoff = Backoff()
        self._told, self._told_at = ("", 0), 0.0
        self._thread = threading.Thread(target=self._supervise, name="crispstream-receiver", daemon=True)
        self.state, self.error = "connecting", ""
        self.connections = self.reconnects = 0
        self.size: tuple[int, int] | None = None
        self.frames = Rate()
        self.ended = threading.Event()
        self.failure: Exception | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """No more frames; waits so long for the source to close and leaves it behind otherwise."""
        self._stop.set()
        self._thread.join(seconds + 1)
        connection = self._connection
        if connection is not None and not connection.done.wait(seconds):
            _logger.warning("%s does not close: left behind", self.name)

    @property
    def dropped(self) -> int:
        """Frames that a source left out because a newer one was there."""
        return self._lost()[0]

    @property
    def damaged(self) -> int:
        """Frames or packets that a source could not decode."""
        return self._lost()[1]

    def _lost(self) -> tuple[int, int]:
        with self._counting:
            dropped, damaged = self._before
            if self._connection is not None:
                dropped, damaged = dropped + self._connection.source.dropped, damaged + self._connection.source.damaged
            return dropped, damaged

    def _supervise(self) -> None:
        try:
            while not self._stop.is_set():
                error = self._connect_once()
                if self._stop.is_set():
                    break
                if isinstance(error, EndOfSource):
                    self.state = "ended"
                    _logger.info("%s has ended", self.name)
                    break
                if isinstance(error, UsageError):
                    self.state, self.error, self.failure = "ended", masked(str(error)), error
                    break
                if self._blocked(error):
                    self.failure = InputError(masked(str(error)), "start again")
                    self.state, self.error = "ended", str(self.failure)
                    break
                pause = REFUSED_SECONDS if isinstance(error, AccessError) else self._backoff.next()
                self.state, self.error = "reconnecting", masked(str(error)) or type(error).__name__
                self._tell(error, pause)
                self._stop.wait(pause)
        finally:
            self.ended.set()

    def _tell(self, error: Exception, pause: float) -> None:
        """Log what went wrong: when it is something else than before, and else once a minute."""
        told = self.error if self.name in self.error else f"{self.name}: {self.error}"
        hint = masked(getattr(error, "hint", ""))
        told += f" ({hint})" if hint else ""
        if (told, self.connections) != self._told or monotonic() - self._told_at > REPEAT_SECONDS:
            self._told, self._told_at = (told, self.connections), monotonic()
            _logger.warning("%s; next try in %.1f s", told, pause)

    def _connect_once(self) -> Exception:
        """One connection until it ends, and what it ended with."""
        self._stuck = [connection for connection in self._stuck if not connection.done.is_set()]
        if len(self._stuck) >= MOST_STUCK:
            return HangingError(f"{len(self._stuck)} connections hang and do not close")
        try:
            connection = _Connection(self._make(), self._take)
        except Exception as error:
            return error
        before = self._lost()
        with self._counting:
            self.reconnects += self._connection is not None
            self._before, self._connection = before, connection
        connection.start()
        end = self._follow(connection)
        connection.cancel()
        if connection.settled:
            self._backoff.reset()
        return end

    def _follow(self, connection: _Connection) -> Exception:
        """Wait for its end, and for no longer than a source may be silent; what it ended with."""
        told = False
        while not connection.done.wait(0.1):
            if self._stop.is_set():
                break
            silent = monotonic() - connection.heard
            # A source looks at the time between two waits, and the last of them may be as long as the read timeout.
            limit = self._timeouts.read + (self._timeouts.read if connection.frames else self._timeouts.open)
            if silent <= GRACE_SECONDS + limit:
                continue
            if not connection.patient:
                self._stuck.append(connection)
                return TimeoutError(f"stuck: nothing for {silent:.1f} s")
            if not told:
                told = True
                _logger.warning("%s: nothing for %.1f s, but it is waited for", self.name, silent)
        return connection.error or TimeoutError("no frame")

    def _blocked(self, error: Exception) -> bool:
        """Whether the source has been hanging for too long: only another process can help then."""
        if not isinstance(error, HangingError):
            self._hanging_since = None
            return False
        self._hanging_since = self._hanging_since or monotonic()
        return monotonic() - self._hanging_since > BLOCKED_SECONDS

    def _take(self, frame: Frame, first: bool) -> None:
        self.size, size = (frame.width, frame.height), self.size
        self.connections += first
        if first or size != self.size:
            self.state, self.error = "live", ""
            _logger.info("%s: %dx%d %s", self.name, *self.size, frame.format.name)
        self.frames.add()
        captured = frame.info.get(CAPTURED, monotonic())
        self._deliver(frame, captured)


class _Connection:
    """A source and the thread that it lives in."""

    def __init__(self, source: LiveSource, take: Callable[[Frame, bool], None]) -> None:
        self.source, self._take = source, take
        self._lock = threading.Lock()
        self._cancelled = False
        self._thread = threading.Thread(target=self._run, name="crispstream-source", daemon=True)
        self.heard = monotonic()
        self.patient: bool = getattr(source, "patient", False)  # there is no point in a second one beside it
        self.frames = 0
        self._first = 0.0
        self.error: Exception | None = None
        self.done = threading.Event()

    @property
    def settled(self) -> bool:
        """Whether frames came for long enough to call it a good connection."""
        return self.frames > 0 and self.heard - self._first > SETTLED_SECONDS

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Not one frame more, from now on; the thread closes the source when it comes to it."""
        with self._lock:
            self._cancelled = True

    def _run(self) -> None:
        try:
            self.source.open()
            self.heard = monotonic()
            while not self._cancelled:
                frame = self.source.read()
                self.heard = monotonic()  # it keeps its own timeouts as long as it comes back from there
                if frame is None:
                    continue
                with self._lock:  # what a cancelled connection still brings is of the past
                    if self._cancelled:
                        break
                    self._first = self._first or self.heard
                    self._take(frame, self.frames == 0)
                    self.frames += 1
                del frame
        except Exception as error:
            # Its traceback holds the source, and decoders end with the last reference to them.
            self.error = error.with_traceback(None)
            error.__cause__ = error.__context__ = None
        finally:
            try:
                self.source.close()
            except Exception:
                _logger.debug("closing %s", self.source.name, exc_info=True)
            self.done.set()
