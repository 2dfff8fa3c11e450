# SPDX-License-Identifier: Apache-2.0
"""A session as a service: signals end it, systemd and the log hear of it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any, Protocol

from crispstream.live.notify import Notifier
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import LiveSink
from crispstream.live.session import LiveSession
from crispstream.signals import handled

REPORT_SECONDS = 60.0

_logger = logging.getLogger("crispstream.live")


class Page(Protocol):
    """A preview of the session."""

    @property
    def url(self) -> str: ...

    @property
    def sink(self) -> LiveSink: ...

    def start(self) -> None: ...

    def close(self) -> None: ...


def serve(session: LiveSession, page: Page | None = None, duration: float | None = None) -> dict[str, Any]:
    """Run ``session`` until its end, SIGINT, SIGTERM, SIGHUP, or ``duration`` seconds; its summary.

    While frames come, systemd's watchdog hears of it, so that a session that hangs is started again; a source that is
    away is not a session that hangs. A second SIGINT raises KeyboardInterrupt. Raises what the session raises.
    """
    notifier = Notifier()
    until = None if duration is None else monotonic() + duration
    next_report, next_sign = monotonic() + REPORT_SECONDS, 0.0
    sign_seconds = min(1.0, (notifier.watchdog_seconds or 10.0) / 3)

    def tick() -> None:
        nonlocal next_report, next_sign
        now = monotonic()
        if until is not None and now >= until:
            session.stop()
        if notifier.heard and now >= next_sign and not session.hangs:
            next_sign = now + sign_seconds
            notifier.alive(_line(session.status()))
        if now >= next_report:
            next_report = now + REPORT_SECONDS
            status = session.status()
            _logger.info("%s", _line(status), extra={"figures": {"status": status}})

    with _stopping(session):  # from here on: who reads of the preview may stop the session
        try:
            if page is not None:
                session.add(Outlet("preview", lambda: page.sink, 1))
                page.start()
                _logger.info("preview: %s", page.url)
            notifier.ready()
            session.run(tick, notifier.stopping)
        finally:
            if page is not None:
                page.close()
    return session.summary()


def _line(status: dict[str, Any]) -> str:
    fps, drops, p99 = status["fps"], sum(status["drops"].values()), status["latency_ms"]["p99"]
    latency = "" if p99 is None else f", p50 {status['latency_ms']['p50']:.0f} ms, p99 {p99:.0f} ms"
    return f"{status['state']}: {fps['in']:.1f} fps in, {fps['out']:.1f} out{latency}, {drops} dropped"


@contextmanager
def _stopping(session: LiveSession) -> Iterator[None]:
    """Systemd and terminals may send SIGTERM and SIGHUP one after the other: after the first signal both are ignored,
    as long as the process lives. Only who presses Ctrl-C twice means it."""
    interrupts = 0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        session.stop()

    with handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop):
        yield
