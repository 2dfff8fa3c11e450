# SPDX-License-Identifier: Apache-2.0
"""Files in real time, and standard input, as live sources."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame
from crispstream.live.protocol import CAPTURED, EndOfSource, Timeouts
from crispstream.sources.pacer import Pacer, wait_until
from crispstream.sources.raw import STANDARD_INPUT, RawLayout, RawSource, read_line

_FEED = "send frames: ffmpeg -i in.mp4 -f yuv4mpegpipe - | crispstream live - --preview 8080"

_logger = logging.getLogger("crispstream.live")


class Film(Protocol):
    """What VideoSource and its like have in common."""

    warnings: list[str]

    def __iter__(self) -> Iterator[Frame | None]: ...

    def close(self) -> None: ...


class PacedSource:
    """A film in real time: every frame when its presentation time says, CAPTURED is when it was due.

    ``make`` opens the film. What is wrong with a film is UsageError, since no second try mends it. With ``loop`` it is
    opened again after its last frame, and times go on where they ended; without it EndOfSource is raised there.
    """

    patient = True
    """Timeouts are not for films: a FIFO may wait for its writer, and a second reader would take from the first."""

    def __init__(self, name: str, make: Callable[[], Film], loop: bool = False) -> None:
        self.name, self._make, self._loop = name, make, loop
        self.dropped = self.damaged = 0
        self._film: Film | None = None
        self._frames: Iterator[Frame | None] = iter(())
        self._pacer = Pacer()
        self._held: tuple[Frame, float] | None = None
        self._begun = self._again = False
        self._shift = self._last = self._end = 0
        self._told: set[str] = set()

    def open(self) -> None:
        """Open the film. Raises UsageError."""
        try:
            self._film = self._make()
        except InputError as error:
            raise _final(error) from error
        self._frames = iter(self._film)
        self._begun = False

    def read(self) -> Frame | None:
        """The next frame when it is due, None where that is more than POLL_SECONDS away.

        Raises EndOfSource, and UsageError for damage.
        """
        if self._held is None:
            frame = self._next()
            if frame is None:
                return None
            seconds = frame.seconds
            if seconds is None:
                raise UsageError(f"{self.name} has frames without a time: it cannot be played in real time")
            self._held = frame, self._pacer.due(seconds)
        frame, moment = self._held
        if not wait_until(moment):
            return None
        self._held = None
        return replace(frame, info={**frame.info, CAPTURED: moment})

    def close(self) -> None:
        """Close the film. Idempotent."""
        if self._film is not None:
            self._film.close()
            self._film = None
        self._frames, self._held = iter(()), None

    def _tell(self, *more: str) -> None:
        """Log what the film has to say and has not said yet, however often it is played."""
        for warning in (*more, *(self._film.warnings if self._film is not None else ())):
            if warning not in self._told:
                self._told.add(warning)
                _logger.warning("%s: %s", self.name, warning)

    def _next(self) -> Frame | None:
        """The film's next frame, in times that only grow; None where there is none yet."""
        try:
            frame = next(self._frames)
        except StopIteration:
            if not self._loop or not self._begun:
                self._tell()
                raise EndOfSource(f"{self.name} has ended") from None
            self._shift, self._again = self._end, True
            self.close()
            self.open()
            return None
        except InputError as error:
            raise _final(error) from error
        if frame is None:
            if not self._begun:
                self._tell("waits for its writer")
            return None
        self._tell()
        if frame.pts is None:
            return frame
        again = self._again and not self._begun
        if again:
            self._shift -= frame.pts
        self._begun = True
        pts = frame.pts + self._shift
        self._end = pts + (frame.duration or max(1, pts - self._last))
        self._last = pts
        return replace(frame, pts=pts, discontinuity=frame.discontinuity or again)


class StdinSource:
    """Raw frames or yuv4mpeg on standard input, as they come; CAPTURED is left to who reads.

    ``layout`` as for RawSource. A pipe cannot be begun anew: whatever is wrong with what it brings is UsageError.
    """

    name = STANDARD_INPUT

    def __init__(self, layout: RawLayout | None, timeouts: Timeouts) -> None:
        self._layout, self._timeouts = layout, timeouts
        self.dropped = self.damaged = 0
        self._source: RawSource | None = None
        self._frames: Iterator[Frame | None] = iter(())

    def open(self) -> None:
        """Wait for the first byte. Raises InputError, and UsageError where frames can never come."""
        try:
            os.fstat(0)
        except OSError:
            raise UsageError(f"{self.name} is closed", "pipe frames into it") from None
        if os.isatty(0):
            raise UsageError(f"{self.name} is a terminal", _FEED)
        # Nothing is taken from a silent pipe, so that it can be opened again.
        if not select.select([0], [], [], self._timeouts.open)[0]:
            raise InputError(f"nothing came on {self.name} for {self._timeouts.open:g} s", "is the sender running?")
        self._frames = self._read()

    def read(self) -> Frame | None:
        """The next frame, None where the pipe is silent. Raises EndOfSource and UsageError."""
        try:
            return next(self._frames)
        except StopIteration:
            for warning in self._source.warnings if self._source is not None else ():
                _logger.warning("%s: %s", self.name, warning)
            raise EndOfSource(f"{self.name} has ended") from None
        except InputError as error:
            raise _final(error) from error

    def close(self) -> None:
        """Let go of the pipe, which stays open. Idempotent."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self._frames = iter(())

    def _read(self) -> Iterator[Frame | None]:
        """The pipe may fall silent in its first line, too, and nothing that was read of it comes again."""
        header = None
        if self._layout is None:
            header = yield from read_line(0)
        self._source = RawSource(None, self._layout, header)
        yield from self._source


def _final(error: InputError) -> UsageError:
    """The same, as what nobody tries again."""
    return UsageError(str(error), error.hint)
