# SPDX-License-Identifier: Apache-2.0
"""Unpack, engine and blend on the CPU, one frame after the other."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from time import perf_counter

import numpy as np
import numpy.typing as npt

from crispstream.engine.protocol import Engine, EngineSession
from crispstream.errors import EngineError
from crispstream.frame import Frame
from crispstream.gating import Decision
from crispstream.kernels import bindings
from crispstream.kernels.geometry import Geometry
from crispstream.runners.protocol import Outcome, geometry_of, visible

KEPT_PIXELS = 4_000_000
"""Sessions of several frame sizes are kept, for streams that take turns, while they sum up to no more pixels than this:
a session takes some 140 bytes a pixel."""


class CpuRunner:
    """``threads``: of the pixel kernels; 0 chooses from the frame's size."""

    def __init__(self, engine: Engine, threads: int = 0) -> None:
        self._engine: Engine | None = engine
        self._threads = threads
        self._lock = threading.Lock()
        self._sessions: dict[tuple[int, int], tuple[Geometry, EngineSession]] = {}

    def prepare(self, frame: Frame) -> None:
        """Open the session of this frame size. Raises EngineError."""
        with self._lock:
            self._session(frame)

    def submit(self, frame: Frame, decision: Decision, strength: float) -> Future[Outcome]:
        """Restore the frame now, in the caller's thread; the future is done."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(self._process(frame, decision, strength))
        except BaseException as error:
            future.set_exception(error)
        return future

    def pinned(self, like: Frame) -> Frame:
        """``like``: the CPU reads any memory."""
        return like

    def maps(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Person mask and blur gate: (2, rows, columns)."""
        with self._lock:
            geometry, session = self._session(frame)
            bindings.unpack(frame, geometry, session.packed, self._threads)
            session.run(foreground=False, background=False)
            return visible(session.head, frame, geometry.map_stride)

    def close(self) -> None:
        """Free the engine and its sessions; a second call does nothing."""
        with self._lock:
            self._sessions.clear()
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _session(self, frame: Frame) -> tuple[Geometry, EngineSession]:
        if self._engine is None:
            raise EngineError("this engine is closed")
        size = (frame.width, frame.height)
        if size not in self._sessions:
            geometry = geometry_of(self._engine.manifest, size)
            pixels = frame.width * frame.height
            while self._sessions and sum(w * h for w, h in self._sessions) + pixels > KEPT_PIXELS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[size] = (geometry, self._engine.session(geometry))
        return self._sessions[size]

    def _process(self, frame: Frame, decision: Decision, strength: float) -> Outcome:
        with self._lock:
            geometry, session = self._session(frame)
            started = perf_counter()
            bindings.unpack(frame, geometry, session.packed, self._threads)
            unpacked = perf_counter()
            session.run(foreground=decision.foreground, background=decision.background)
            inferred = perf_counter()
            out = frame.empty_like()
            dropped = bindings.blend(
                frame,
                geometry,
                session.head,
                session.foreground,
                session.background,
                out,
                strength * decision.strength,
                decision.mask_gain,
                decision.mask_bias,
                self._threads,
            )
            statistics = bindings.statistics(geometry, session.head)
            seconds = {
                "unpack": unpacked - started,
                **session.seconds,
                "engine": inferred - unpacked,
                "blend": perf_counter() - inferred,
            }
            return Outcome(out, statistics, dropped, seconds)
