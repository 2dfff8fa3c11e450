# SPDX-License-Identifier: Apache-2.0
"""The public API: one frame in, one frame out, or a stream."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from crispstream.engine.protocol import Engine, EngineSession
from crispstream.engine.select import open_engine
from crispstream.errors import UsageError
from crispstream.frame import Frame, PixelFormat, Plane
from crispstream.gating import Decision, Gating
from crispstream.kernels import bindings
from crispstream.kernels.geometry import Geometry
from crispstream.prefetch import prefetch

KEPT_PIXELS = 4_000_000
"""Sessions of several frame sizes are kept, for streams that take turns, while they sum up to no more pixels than this:
a session takes some 140 bytes a pixel."""


@dataclass
class Stats:
    """What a Deblurrer has done. ``seconds`` per stage, summed; ``variants`` counts frames per gating variant;
    ``non_finite`` residual values that were dropped (each a pixel channel left as it was)."""

    frames: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    variants: Counter[str] = field(default_factory=Counter)
    non_finite: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values; stage times as mean milliseconds per frame."""
        per_frame = {k: round(1000 * v / self.frames, 3) for k, v in self.seconds.items()} if self.frames else {}
        return {
            "frames": self.frames,
            "stage_ms": per_frame,
            "variants": dict(self.variants),
            "non_finite": self.non_finite,
        }


class Deblurrer:
    """Removes motion blur from 8-bit frames of any size.

    ``preset``: name of an engine (see ``crispstream engines``) or a folder with a manifest. ``device``: "auto", "cpu",
    "cuda", "cuda:1". ``strength``: 0 leaves frames as they are, 1 is the network's answer, up to 2 exaggerates.
    ``backend`` pins an engine ("onnxruntime", "torch"); ``gating`` lets streams leave idle branches out; ``threads``
    caps the CPU threads.

    Safe to share between threads: frames are processed one at a time, each stream keeps its own state.
    Raises UsageError for a bad argument, EngineError when no engine can be opened.
    """

    def __init__(
        self,
        preset: str = "nano",
        device: str = "auto",
        strength: float = 1.0,
        *,
        backend: str = "auto",
        gating: bool = True,
        threads: int | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self.strength = strength
        self.gating = gating
        self.stats = Stats()
        self._threads = threads or 0
        self._engine = open_engine(preset, device, backend, threads)
        self._sessions: dict[tuple[int, int], tuple[Geometry, EngineSession]] = {}

    @property
    def strength(self) -> float:
        """Factor on the residual, 0 to 2; may be changed between frames."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 2:  # also refuses NaN
            raise UsageError(f"strength {value} is outside 0..2")
        self._strength = float(value)

    @property
    def engine(self) -> Engine:
        """The open engine. Raises UsageError after ``close``."""
        if self._engine is None:
            raise UsageError("this Deblurrer is closed")
        return self._engine

    @overload
    def __call__(self, image: Frame) -> Frame: ...
    @overload
    def __call__(self, image: Plane) -> Plane: ...
    def __call__(self, image: Frame | Plane) -> Frame | Plane:
        """Restore one picture with both branches: an (H, W, 3) uint8 BGR array, or a Frame; the same comes back."""
        if isinstance(image, Frame):
            return self._process(image, Decision())[0]
        return self._process(_bgr_frame(image), Decision())[0].planes[0]

    def maps(self, image: Plane) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Person mask and blur gate of an (H, W, 3) uint8 BGR array, one value per cell of map_stride pixels."""
        frame = _bgr_frame(image)
        with self._lock:
            geometry, session = self._session(frame.width, frame.height)
            bindings.unpack(frame, geometry, session.packed, self._threads)
            session.run(foreground=False, background=False)
            rows, columns = -(-frame.height // geometry.map_stride), -(-frame.width // geometry.map_stride)
            mask, gate = session.head[0, :, :rows, :columns].astype(np.float32)
        return mask, gate

    def open_stream(self) -> DeblurStream:
        """State for one stream of consecutive frames; any number may be open at once."""
        return DeblurStream(self)

    def stream(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Restored frames in order. Fetching, computing and consuming overlap, each a frame or two ahead."""
        with prefetch(frames) as fetched, prefetch(map(self.open_stream().process, fetched)) as restored:
            yield from restored

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        with self._lock:
            self._sessions.clear()
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def __enter__(self) -> Deblurrer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _session(self, width: int, height: int) -> tuple[Geometry, EngineSession]:
        if (width, height) not in self._sessions:
            manifest = self.engine.manifest
            geometry = Geometry.for_size(
                width, height, pack=manifest.pack, multiple=manifest.multiple, map_stride=manifest.map_stride
            )
            while self._sessions and sum(w * h for w, h in self._sessions) + width * height > KEPT_PIXELS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[width, height] = (geometry, self.engine.session(geometry))
        return self._sessions[width, height]

    def _process(self, frame: Frame, decision: Decision) -> tuple[Frame, tuple[float, float]]:
        with self._lock:
            geometry, session = self._session(frame.width, frame.height)
            started = time.perf_counter()
            bindings.unpack(frame, geometry, session.packed, self._threads)
            unpacked = time.perf_counter()
            session.run(foreground=decision.foreground, background=decision.background)
            inferred = time.perf_counter()
            out = frame.empty_like()
            dropped = bindings.blend(
                frame,
                geometry,
                session.head,
                session.foreground,
                session.background,
                out,
                self._strength * decision.strength,
                decision.mask_gain,
                decision.mask_bias,
                self._threads,
            )
            statistics = bindings.statistics(geometry, session.head)
            self.stats.frames += 1
            self.stats.non_finite += dropped
            self.stats.variants[decision.variant] += 1
            self.stats.seconds["unpack"] += unpacked - started
            for part, seconds in session.seconds.items():
                self.stats.seconds[part] += seconds
            self.stats.seconds["engine"] += inferred - unpacked
            self.stats.seconds["blend"] += time.perf_counter() - inferred
            return out, statistics


def _bgr_frame(image: Plane) -> Frame:
    try:
        return Frame.from_array(image, PixelFormat.BGR24)
    except (AttributeError, ValueError) as error:
        raise UsageError(str(error), "pass an (H, W, 3) uint8 BGR array or a crispstream.Frame") from error


class DeblurStream:
    """Consecutive frames of one video. Belongs to one thread at a time."""

    def __init__(self, deblurrer: Deblurrer) -> None:
        self._deblurrer = deblurrer
        self._gating = Gating()
        self._size: tuple[int, int] | None = None

    def process(self, frame: Frame) -> Frame:
        """Restore the next frame. A discontinuity or another size starts afresh."""
        size = (frame.width, frame.height)
        if frame.discontinuity or size != self._size:
            self._gating.reset()
            self._size = size
        if not self._deblurrer.gating:
            self._gating.reset()
            return self._deblurrer._process(frame, Decision())[0]
        out, statistics = self._deblurrer._process(frame, self._gating.decide())
        self._gating.observe(statistics)
        return out
