# SPDX-License-Identifier: Apache-2.0
"""Unpack, engine and blend on the CPU, one frame after the other."""

from __future__ import annotations

import threading
from collections import defaultdict
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
from crispstream.runners.tiles import Size, Tile, Tiling

KEPT_PIXELS = 4_000_000
"""Sessions of several sizes are kept, for streams that take turns, while they sum up to no more pixels than this."""


class CpuRunner:
    """``threads``: of the pixel kernels; 0 chooses from the frame's size. ``tile``: "auto", "off" or WIDTHxHEIGHT, as
    in ``Tiling``. Raises UsageError."""

    def __init__(self, engine: Engine, threads: int = 0, tile: str = "auto") -> None:
        self._engine: Engine | None = engine
        self._tiling = Tiling(engine.manifest, tile)
        self._threads = threads
        self._lock = threading.Lock()
        self._sessions: dict[Size, EngineSession] = {}

    def prepare(self, frame: Frame) -> None:
        """Open the session of this frame size. Raises EngineError."""
        with self._lock:
            self._session(self._tiling.tiles(frame.width, frame.height)[0])

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
            whole = self._geometry(frame)
            head = np.empty(whole.head_shape, np.float32)
            for tile in self._tiling.tiles(frame.width, frame.height):
                session, part = self._session(tile), tile.cut(frame)
                bindings.unpack(part, self._geometry(part), session.packed, self._threads)
                session.run(foreground=False, background=False)
                tile.paste_map(session.head, head, whole.map_stride)
            return visible(head, frame, whole.map_stride)

    def close(self) -> None:
        """Free the engine and its sessions; a second call does nothing."""
        with self._lock:
            self._sessions.clear()
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def _geometry(self, frame: Frame) -> Geometry:
        return geometry_of(self._tiling.manifest, (frame.width, frame.height))

    def _session(self, tile: Tile) -> EngineSession:
        if self._engine is None:
            raise EngineError("this engine is closed")
        size = (tile.padded_width, tile.padded_height)
        if size not in self._sessions:
            while self._sessions and sum(w * h for w, h in (*self._sessions, size)) > KEPT_PIXELS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[size] = self._engine.session(geometry_of(self._tiling.manifest, size))
        return self._sessions[size]

    def _process(self, frame: Frame, decision: Decision, strength: float) -> Outcome:
        with self._lock:
            whole, tiles = self._geometry(frame), self._tiling.tiles(frame.width, frame.height)
            out = frame.empty_like()
            head = np.empty(whole.head_shape, self._session(tiles[0]).head.dtype)
            dropped, seconds = 0, defaultdict[str, float](float)
            for tile in tiles:
                session, part = self._session(tile), tile.cut(frame)
                restored = out if len(tiles) == 1 else part.empty_like()
                dropped += self._restore(session, part, decision, strength, restored, seconds)
                tile.paste_map(session.head, head, whole.map_stride)
                if restored is not out:
                    tile.paste(restored, out)
            # Of the whole frame's head, so that gating decides as it would without tiles.
            maps = visible(head, frame, whole.map_stride)
            return Outcome(out, bindings.statistics(whole, head), dropped, seconds, maps)

    def _restore(
        self,
        session: EngineSession,
        frame: Frame,
        decision: Decision,
        strength: float,
        out: Frame,
        seconds: dict[str, float],
    ) -> int:
        """One tile into ``out``; adds to ``seconds``. Returns how many residual values were dropped."""
        geometry = self._geometry(frame)
        started = perf_counter()
        bindings.unpack(frame, geometry, session.packed, self._threads)
        unpacked = perf_counter()
        session.run(foreground=decision.foreground, background=decision.background)
        inferred = perf_counter()
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
        stages = {"unpack": unpacked - started, **session.seconds, "engine": inferred - unpacked}
        for stage, took in {**stages, "blend": perf_counter() - inferred}.items():
            seconds[stage] += took
        return dropped
