# SPDX-License-Identifier: Apache-2.0
"""Frames through an engine on a GPU. All GPU work happens in the engine's worker thread."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from crispstream.engine.protocol import GpuEngine
from crispstream.errors import CrispStreamError, EngineError
from crispstream.frame import Frame
from crispstream.gating import Decision
from crispstream.runners.lane import Lane, Streams
from crispstream.runners.layout import FrameLayout
from crispstream.runners.protocol import Outcome

MAX_LANES = 3
"""Frame layouts that are kept open for streams that take turns; one more closes the one opened first."""


class GpuRunner:
    """Owns ``engine``. Its lanes are made, used and closed in the worker's thread alone."""

    def __init__(self, engine: GpuEngine) -> None:
        self._engine, self._worker = engine, engine.worker
        self._lanes: dict[FrameLayout, Lane] = {}
        device = self._worker.device
        self._streams: Streams = self._worker.call(lambda: Streams(device.stream(), device.stream(), device.stream()))
        self._closed = False

    def prepare(self, frame: Frame) -> None:
        """Open a lane for frames like this one: memory, warm-up, graphs. Raises EngineError."""
        self._worker.call(self._lane, frame)

    def submit(self, frame: Frame, decision: Decision, strength: float) -> Future[Outcome]:
        """Hand the frame to the worker. Raises EngineError after ``close``."""
        future: Future[Outcome] = Future()

        def refused(posted: Future[None]) -> None:
            """``_launch`` itself never raises: the worker was closed before it came to it."""
            if error := posted.exception():
                future.set_exception(error)

        self._worker.post(self._launch, frame, decision, strength, future).add_done_callback(refused)
        return future

    def pinned(self, like: Frame) -> Frame:
        """A frame in page-locked memory of the layout that the GPU copies from directly."""
        return like.with_planes(self._worker.call(lambda: self._lane(like).frames.lend()[0]))

    def maps(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Person mask and blur gate: (2, rows, columns)."""
        found: npt.NDArray[np.float32] = self._worker.call(lambda: self._lane(frame).head(frame))
        return found

    def close(self) -> None:
        """Finish what is under way, free everything, the engine included; a second call does nothing."""
        if not self._closed:
            with suppress(EngineError):  # somebody else was quicker
                self._worker.call(self._close_lanes)
            self._engine.close()

    def _lane(self, frame: Frame) -> Lane:
        if self._closed:
            raise EngineError("this engine is closed")
        layout = FrameLayout.of(frame)
        if layout not in self._lanes:
            if len(self._lanes) == MAX_LANES:
                self._close_lane(self._lanes.pop(next(iter(self._lanes))))
            self._lanes[layout] = Lane(self._engine, self._streams, frame)
        return self._lanes[layout]

    def _launch(self, frame: Frame, decision: Decision, strength: float, future: Future[Outcome]) -> None:
        try:
            self._lane(frame).launch(frame, decision, strength, future)
        except BaseException as error:
            known = isinstance(error, CrispStreamError)
            future.set_exception(error if known else EngineError(f"the GPU failed: {error}"))

    def _close_lane(self, lane: Lane) -> None:
        while not lane.idle and self._worker.finish_oldest():
            pass
        lane.close()

    def _close_lanes(self) -> None:
        self._closed = True
        for lane in self._lanes.values():
            self._close_lane(lane)
        self._lanes.clear()
        self._streams.close()
