# SPDX-License-Identifier: Apache-2.0
"""What a live source and a live sink are, and what passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crispstream.errors import InputError, OutputError
from crispstream.frame import Frame

CAPTURED = "captured"
"""Key of ``Frame.info``: when the frame was taken, in seconds of ``time.monotonic()``. A source sets it where the
device tells; else the frame's arrival counts."""

POLL_SECONDS = 0.25
"""A source that has no frame for so long says so, in order that a stop is seen."""


class EndOfSource(InputError):  # noqa: N818 - what a file or a pipe comes to, not a failure
    """Nothing more will come, and there is no point in trying again."""


class AccessError(InputError):
    """The other side wants another user or password. Who asks often is locked out."""


class HangingError(InputError):
    """The device hangs in its driver. Where it does so for long, only another process can help."""


class EndOfSink(OutputError):  # noqa: N818
    """Nothing more can go there, and there is no point in trying again."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``open``: until the first frame of a connection; ``read``: between two frames."""

    open: float = 10.0
    read: float = 5.0


class LiveSource(Protocol):
    """One connection to frames that come on their own time. Belongs to one thread, from ``open`` to ``close``.

    ``name`` is for people and logs: no credentials. Every connection is an object of its own. ``dropped`` counts frames
    that nobody read before a newer one was there, ``damaged`` what could not be decoded; both may be read by any
    thread.
    """

    name: str
    dropped: int
    damaged: int

    def open(self) -> None:
        """Connect, within the open timeout. Raises InputError, and UsageError where trying again cannot help."""

    def read(self) -> Frame | None:
        """The next frame as soon as it is there, None after about POLL_SECONDS without one where the source can tell.

        Raises InputError when the connection is lost or the read timeout has passed, EndOfSource at the end.
        """

    def close(self) -> None:
        """Free everything. Idempotent, also after a failed ``open``."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame before and after. ``captured``: seconds of ``time.monotonic()``; ``number`` counts the source's frames.

    ``head``: person mask and blur gate, (2, rows, columns) float32 in [0, 1], one value per cell of ``map_stride``
    pixels; None where the engine keeps them to itself.
    """

    before: Frame
    after: Frame
    captured: float
    number: int
    head: npt.NDArray[np.float32] | None = None
    map_stride: int = 8


class LiveSink(Protocol):
    """Where shots go. Belongs to one thread of its own, so it may take its time; shots it has no time for are dropped
    before they reach it, and counted. Made without side effects; the first ``write`` opens what must be opened.

    After an OutputError the sink is aborted and, a while later, another one is made in its place. A sink whose
    ``abort`` takes back shots that were written has their number in ``unfinished``.
    """

    name: str

    def write(self, shot: Shot) -> bool | None:
        """Take one shot; False where the sink does not want this one. Raises OutputError, EndOfSink, and
        ClosedPipeError where nobody will ever look again."""

    def close(self) -> None:
        """Finish what is open, so that it plays. Raises OutputError."""

    def abort(self) -> None:
        """Let go of everything at once. Idempotent, and without effect after ``close``."""
