# SPDX-License-Identifier: Apache-2.0
"""Telling the user how far a run is: a bar on a terminal, lines in a log, nothing when quiet."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Protocol, TextIO

# A log should stay readable after an hour's run.
_SECONDS_PER_LINE = 5.0


class Progress(Protocol):
    """Follows one run; ``total`` is None where nobody knows how much there is."""

    def start(self, total: int | None) -> None: ...

    def update(self, done: int) -> None: ...

    def stop(self) -> None:
        """Also called when the run fails. Idempotent."""


class Silent:
    """Says nothing."""

    def start(self, total: int | None) -> None:
        """Nothing to show."""

    def update(self, done: int) -> None:
        """Nothing to show."""

    def stop(self) -> None:
        """Nothing to show."""


class Lines:
    """A plain line every few seconds: ``what`` is done, frames, frames a second, time left as soon as it is known."""

    def __init__(self, stream: TextIO, what: str, seconds_per_line: float) -> None:
        self._stream = stream
        self._what = what
        self._pause = seconds_per_line
        self._total: int | None = None
        self._started = self._last = perf_counter()

    def start(self, total: int | None) -> None:
        """Set the clock to zero."""
        self._total = total
        self._started = self._last = perf_counter()

    def update(self, done: int) -> None:
        """Print a line if the last one is old enough."""
        now = perf_counter()
        if now - self._last < self._pause:
            return
        self._last = now
        fps = done / (now - self._started)
        of = f"/{self._total}" if self._total else ""
        line = f"{self._what}: {done}{of} frames, {fps:.1f} fps"
        if self._total and done:
            line += f", {max(0, self._total - done) / fps:.0f} s left"
        print(line, file=self._stream, flush=True)

    def stop(self) -> None:
        """The report has the last word."""


class Bar:
    """rich's progress bar with frames a second and the time left."""

    def __init__(self, stream: TextIO, what: str) -> None:
        # Here, because only a terminal shows it and it takes 30 ms to load.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fps]:.1f} fps"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, fps=0.0)
        self._started = perf_counter()

    def start(self, total: int | None) -> None:
        """Show the bar."""
        self._started = perf_counter()
        self._bar.update(self._task, total=total)
        self._bar.start()

    def update(self, done: int) -> None:
        """Move the bar."""
        fps = done / max(perf_counter() - self._started, 1e-9)
        self._bar.update(self._task, completed=done, fps=fps)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def make_progress(quiet: bool = False, stream: TextIO | None = None, what: str = "deblurring") -> Progress:
    """The display that fits ``stream`` (stderr by default, so that stdout stays clean for ``--json``); ``what`` is said
    to be done."""
    stream = stream or sys.stderr
    if quiet:
        return Silent()
    return Bar(stream, what) if stream.isatty() else Lines(stream, what, _SECONDS_PER_LINE)
