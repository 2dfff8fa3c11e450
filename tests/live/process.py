# SPDX-License-Identifier: Apache-2.0
"""`crispstream live` as a process: its log, its end, and what it takes of the machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from types import TracebackType
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory in MiB, open file descriptors and threads of a process."""

    memory: float
    descriptors: int
    threads: int


class Live:
    """A running ``crispstream live``; standard error is read line by line while it runs."""

    def __init__(self, *arguments: str, stdout: int = subprocess.PIPE, cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "crispstream.cli", "live", *arguments, "--log-json"]
        self.process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode())

    @property
    def messages(self) -> list[str]:
        """What was logged so far."""
        return [json.loads(line)["message"] for line in self.lines if line.startswith("{")]

    def logged(self, pattern: str, seconds: float = 120.0) -> str:
        """Wait for a message in which ``pattern`` is found, and return it."""
        deadline = time.monotonic() + seconds
        over = False
        while not over and time.monotonic() < deadline:
            over = not self._reader.is_alive()  # asked first: what it has read last is looked at once more
            for message in self.messages:
                if re.search(pattern, message):
                    return message
            time.sleep(0.05)
        raise AssertionError(f"'{pattern}' was not logged; what was: {self.lines}")

    def status(self, port: int) -> dict[str, Any]:
        """The preview's /status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def sample(self) -> Sample:
        """What the process takes now."""
        folder = Path(f"/proc/{self.process.pid}")
        words = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        memory = int(words["VmRSS"].split()[0]) / 1024
        return Sample(memory, len(os.listdir(folder / "fd")), int(words["Threads"]))

    def wait(self, seconds: float = 120.0) -> int:
        """Until the process has ended and all that it said was read; the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        assert not self._reader.is_alive(), "somebody else holds its standard error"
        return code

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def report(self) -> dict[str, Any]:
        """What --json printed."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.read())
        return found

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(60)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def flat(samples: Sequence[Sample], mebibytes: float) -> None:
    """Fail where the second half takes more than the first: ``mebibytes`` at the most, or descriptors or threads in the
    median: files and connections that are just being finished or opened come and go, a leak raises what there is."""
    half = len(samples) // 2
    first, second = samples[:half], samples[half:]
    assert first, "too few samples"
    grown = max(s.memory for s in second) - max(s.memory for s in first)
    assert grown < mebibytes, f"memory grew by {grown:.1f} MiB"
    for what in ("descriptors", "threads"):
        before, after = (median_low(getattr(s, what) for s in part) for part in (first, second))
        assert after <= before + 1, f"{what} grew from {before} to {after}"
