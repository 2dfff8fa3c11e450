# SPDX-License-Identifier: Apache-2.0
"""A live stream from source to sinks: receive, deblur, hand out; latency stays flat and every drop is counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any

from crispstream.deblurrer import Deblurrer, Pending
from crispstream.errors import CrispStreamError, EngineError, InputError
from crispstream.frame import Frame
from crispstream.gating import SLOTS
from crispstream.live.engine import LiveEngine
from crispstream.live.figures import Latency, Rate
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import LiveSource, Shot, Timeouts
from crispstream.live.receiver import Receiver
from crispstream.policy import BoundedQueue, Closed, Policy

WAITING_FRAMES = 2
"""Two frames that a network delivers at once are both used. A third takes the oldest one's place, so that a frame waits
for two others at most."""
MOST_FAILURES = 10
"""So many frames in a row that the engine fails on end the session: it will not get better by itself."""
DRAIN_SECONDS = 10.0
"""For an end in good order. The source and the engine have half of it: films are finished whatever those do."""
CLOSE_SECONDS = 2.0
"""For the engine to free what it holds; one that hangs is left behind."""
HUNG_SECONDS = 60.0
"""An engine may compile for its GPU when the first frame of a size comes."""

_logger = logging.getLogger("crispstream.live")


@dataclass(frozen=True, slots=True)
class _Arrival:
    """``breaks``: how many times the stream had begun anew by then: connections, and marks of the source."""

    frame: Frame
    captured: float
    number: int
    breaks: int


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A frame with the engine; ``before`` is the one to close once all earlier frames are done."""

    arrival: _Arrival
    pending: Pending
    map_stride: int
    before: Deblurrer | None


class LiveSession:
    """``make`` gives a source for each connection; ``name`` is the source's, without credentials.

    ``max_latency``: frames older than so many seconds when their turn comes are dropped (None: none for that).
    ``run`` belongs to one thread, all else may be called from any.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], LiveSource],
        engine: LiveEngine,
        outlets: Sequence[Outlet],
        timeouts: Timeouts | None = None,
        max_latency: float | None = None,
    ) -> None:
        self._engine, self._outlets, self._max_latency = engine, list(outlets), max_latency
        self._receiver = Receiver(name, make, self._deliver, timeouts or Timeouts())
        self._inbox: BoundedQueue[_Arrival] = BoundedQueue(WAITING_FRAMES, Policy.NEWEST)
        self._under_way: BoundedQueue[_UnderWay] = BoundedQueue(SLOTS)
        self._threads = [
            threading.Thread(target=self._deblur, name="crispstream-deblur", daemon=True),
            threading.Thread(target=self._hand_out, name="crispstream-results", daemon=True),
        ]
        self._stopping = self._finishing = False
        self._started = monotonic()
        self._drops: Counter[str] = Counter(late=0, failed=0)
        self._results, self._latency = Rate(), Latency()
        self._shares: tuple[float, float] | None = None
        self._failing = threading.Lock()
        self._failures = 0
        self._engine_error = ""
        self._begun = self._done = self._marks = 0
        self._progress = self._started
        self._failure: CrispStreamError | None = None

    def run(
        self,
        on_tick: Callable[[], None] = lambda: None,
        on_ending: Callable[[], None] = lambda: None,
        tick: float = 0.2,
    ) -> None:
        """Until the source has ended, ``stop`` is called or every sink has closed; then what is under way is finished
        and the sinks are closed. ``on_tick`` is called every ``tick`` seconds meanwhile, ``on_ending`` once before the
        finish, both in this thread.

        Raises what ended the session: UsageError, EngineError, or InputError of a source that cannot be tried again;
        and EngineError or InputError where there was no result because every frame failed, or none came. What a sink
        failed with is in ``summary``.
        """
        self._started = monotonic()
        for outlet in self._outlets:
            outlet.start()
        for thread in self._threads:
            thread.start()
        self._receiver.start()
        try:
            while not self._stopping:
                sleep(tick)
                on_tick()
                if self._receiver.ended.is_set() or (self._outlets and all(o.ended.is_set() for o in self._outlets)):
                    break
        finally:
            on_ending()
            self._finish()
        failure = self._failure or self._receiver.failure or self._fruitless()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End ``run`` soon; from any thread or signal handler, which may not take locks."""
        self._stopping = True

    def set_strength(self, value: float) -> None:
        """Factor on the residual, 0 to 2, from the next frame on. Raises UsageError."""
        self._engine.strength = value

    def switch(self, preset: str, backend: str | None = None) -> None:
        """Go over to another engine once it is open; without ``backend`` that stays as it is.

        Raises UsageError; other failures appear in ``status``.
        """
        self._engine.switch(preset, backend)

    def presets(self) -> list[str]:
        """What ``switch`` takes."""
        return self._engine.presets()

    def add(self, outlet: Outlet) -> None:
        """One sink more; before ``run``."""
        self._outlets.append(outlet)

    @property
    def hangs(self) -> bool:
        """Whether the engine has had a frame for HUNG_SECONDS and not given it back."""
        return self._begun > self._done and monotonic() - self._progress > HUNG_SECONDS

    def status(self) -> dict[str, Any]:
        """Everything that is known, as JSON types; latencies in milliseconds over the last 10 s."""
        receiver, engine = self._receiver, self._engine.figures()
        width, height = receiver.size or (None, None)
        person, blur = self._shares or (None, None)
        unread = receiver.dropped
        return {
            "uptime_s": round(monotonic() - self._started, 1),
            "state": "stopping" if self._stopping else receiver.state,
            "source": {
                "name": receiver.name,
                "state": receiver.state,
                "reconnects": receiver.reconnects,
                "error": receiver.error,
                "damaged": receiver.damaged,
                "width": width,
                "height": height,
                "fps": receiver.frames.per_second(),
            },
            "engine": self._engine.status(),
            "frames": {"in": receiver.frames.count + unread, "out": self._results.count},
            "fps": {"in": receiver.frames.per_second(), "out": self._results.per_second()},
            "latency_ms": self._latency.recent(),
            "drops": {"source": unread, "newer": self._inbox.dropped, **self._drops},
            "shares": {"person": person, "blur": blur},
            "variants": engine["variants"],
            "non_finite": engine["non_finite"],
            "sinks": [outlet.status() for outlet in self._outlets],
        }

    def summary(self) -> dict[str, Any]:
        """``status`` with the latencies of the whole session."""
        whole = {"latency_ms": self._latency.overall()}
        sinks = [{**outlet.status(), "latency_ms": outlet.latency.overall()} for outlet in self._outlets]
        return {**self.status(), **whole, "sinks": sinks}

    def _deliver(self, frame: Frame, captured: float) -> None:
        self._marks += frame.discontinuity
        breaks = self._receiver.connections + self._marks
        with suppress(Closed):
            self._inbox.put(_Arrival(frame, captured, self._receiver.frames.count - 1, breaks))

    def _deblur(self) -> None:
        try:
            breaks = 0
            for arrival in self._inbox:
                if self._max_latency is not None and monotonic() - arrival.captured > self._max_latency:
                    self._drops["late"] += 1
                    continue
                frame = arrival.frame
                if arrival.breaks != breaks:  # the first frame after it may have been dropped
                    frame, breaks = replace(frame, discontinuity=True), arrival.breaks
                if self._begun == self._done:
                    self._progress = monotonic()
                self._begun += 1
                try:
                    pending, before = self._engine.submit(frame)
                except EngineError as error:
                    self._came_back()
                    self._failed(error)
                    continue
                self._under_way.put(_UnderWay(arrival, pending, self._engine.map_stride, before))
                del arrival, frame, pending
        except Closed:
            pass
        except Exception as error:
            self._give_up(error)
        finally:
            self._inbox.close()
            self._under_way.close()

    def _hand_out(self) -> None:
        try:
            for item in self._under_way:
                if item.before is not None:
                    item.before.close()
                try:
                    after = item.pending.result()
                except EngineError as error:
                    self._failed(error)
                    continue
                finally:
                    self._came_back()
                with self._failing:
                    self._failures = 0
                head = item.pending.head()
                if head is not None:
                    self._shares = round(float(head[0].mean()), 4), round(float(head[1].mean()), 4)
                arrival = item.arrival
                self._latency.add(monotonic() - arrival.captured)
                self._results.add()
                shot = Shot(arrival.frame, after, arrival.captured, arrival.number, head, item.map_stride)
                for outlet in self._outlets:
                    outlet.offer(shot)
                del item, arrival, after, shot
        except Exception as error:
            self._give_up(error)
        finally:
            self._under_way.close()

    def _came_back(self) -> None:
        with self._failing:
            self._done += 1
            self._progress = monotonic()

    def _failed(self, error: EngineError) -> None:
        with self._failing:
            self._drops["failed"] += 1
            self._failures += 1
            failures, self._engine_error = self._failures, str(error)
        if failures == 1:
            _logger.error("the engine fails: %s", error)
        if failures >= MOST_FAILURES:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._finishing:  # the engine may be closed under a frame that takes too long
            return
        if self._failure is None:
            known = error if isinstance(error, CrispStreamError) else None
            self._failure = known or EngineError(f"{type(error).__name__}: {error}", "run again with --debug")
            _logger.error("%s", self._failure, exc_info=None if known else error)
        self._inbox.close()
        self._stopping = True

    def _fruitless(self) -> CrispStreamError | None:
        """Why a session without a result had none; None where nobody is to blame."""
        if self._drops["failed"] and not self._results.count:
            return EngineError(f"the engine failed on every frame: {self._engine_error}")
        receiver = self._receiver
        if not receiver.frames.count and (receiver.error or receiver.state == "ended"):
            return InputError(f"no frame came: {receiver.error or f'{receiver.name} has none'}")
        return None

    def _finish(self) -> None:
        """Close from the source to the sinks, each with a limit of time: nothing that hangs holds up the rest."""
        self._finishing = True
        began = monotonic()
        self._receiver.stop()
        self._inbox.close()
        for thread in self._threads:
            thread.join(max(0.1, began + DRAIN_SECONDS / 2 - monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _logger.error("the engine hangs: left behind")
        for outlet in self._outlets:
            outlet.finish()
        for outlet in self._outlets:
            outlet.join(began + DRAIN_SECONDS - monotonic())
        closing = threading.Thread(target=self._engine.close, name="crispstream-closing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
