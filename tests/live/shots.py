# SPDX-License-Identifier: Apache-2.0
"""Shots with a picture that moves, and what this process holds open."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from crispstream.frame import Frame, PixelFormat
from crispstream.live.protocol import Shot


def shot(number: int, captured: float | None = None, size: tuple[int, int] = (64, 48)) -> Shot:
    """A bright column on a slope, moved by four pixels a frame; ``captured``: now where it is None."""
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, :, 1] = np.linspace(40, 200, width).astype(np.uint8)
    picture[:, (4 * number) % width] = 255
    frame = Frame.from_array(picture, PixelFormat.BGR24)
    return Shot(frame, frame, time.monotonic() if captured is None else captured, number)


def noise(number: int, size: tuple[int, int] = (640, 360)) -> Shot:
    """A picture that no encoder makes small."""
    codes = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    frame = Frame.from_array(codes, PixelFormat.BGR24)
    return Shot(frame, frame, time.monotonic(), number)


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    """Processes that this one has started and not buried."""
    subprocess._cleanup()  # type: ignore[attr-defined]  # what was killed, and took longer to die than one waited
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
