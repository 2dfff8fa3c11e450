# SPDX-License-Identifier: Apache-2.0
"""How far a build is: TensorRT's nested phases as one number, shown as a bar, and the way to stop a build."""

from __future__ import annotations

from threading import Event, Lock
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Phases:
    """TensorRT's phases, one inside the other, as a fraction of the outermost. Never goes back. Any thread calls."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
        self.fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins inside ``parent`` (None: the whole build)."""
        with self._lock:
            self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, step: int) -> None:
        """Step number ``step``, from 0, is done."""
        with self._lock:
            if name in self._phases:
                parent, steps, _ = self._phases[name]
                self._phases[name] = (parent, steps, step + 1)
                self.fraction = max(self.fraction, min(1.0, self._of(None)))

    def finish(self, name: str) -> None:
        """The phase is over."""
        with self._lock:
            self._phases.pop(name, None)

    def _of(self, parent: str | None) -> float:
        inside = (name for name, (above, _, _) in self._phases.items() if above == parent)
        return max((self._share(name) for name in inside), default=0.0)

    def _share(self, name: str) -> float:
        _, steps, done = self._phases[name]
        return min(1.0, (done + self._of(name)) / steps)


class Display:
    """A bar for every part on ``stream``, or nothing when ``quiet``."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream),
            disable=quiet,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, what: str) -> None:
        """Start the bar of ``what``. The first one opens the display: an error before it stays a line of its own."""
        self._bar.start()
        self._task = self._bar.add_task(what, total=1.0)

    def show(self, fraction: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=fraction)


def make_monitor(trt: Any, display: Display, stop: Event) -> Any:
    """TensorRT's progress monitor for one plan: moves ``display``, and stops the build once ``stop`` is set."""
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            display.show(phases.fraction)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
