# SPDX-License-Identifier: Apache-2.0
"""The public API: one frame in, one frame out, or a stream."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt

from crispstream.cuda.interop import DeviceArray
from crispstream.cuts import CutDetector
from crispstream.device_frame import DeviceFrame
from crispstream.engine.protocol import Engine, GpuEngine, on_gpu
from crispstream.engine.select import EngineChoice
from crispstream.errors import EngineError, UsageError
from crispstream.frame import ColorSpec, Frame, PixelFormat, Plane, plane_shapes
from crispstream.gating import SLOTS, Decision, Gating
from crispstream.prefetch import prefetch
from crispstream.runners.cpu import CpuRunner
from crispstream.runners.protocol import Outcome, Runner
from crispstream.runners.tiles import Tiling
from crispstream.stats import Stats

_logger = logging.getLogger("crispstream")


class Deblurrer:
    """Removes motion blur from 8-bit frames of any size.

    ``preset``: name of an engine (see ``crispstream engines``) or a folder with a manifest. ``device``: "auto" (a GPU
    where there is one), "cpu", "cuda", "cuda:1". ``strength``: 0 leaves frames as they are, 1 is the network's answer,
    up to 2 exaggerates. ``backend`` pins an engine ("tensorrt", "tensorrt-rtx", "onnxruntime-int8", "onnxruntime",
    "torch"). ``gating`` lets streams leave idle branches out; ``threads`` caps the CPU threads. ``tile``: frames that
    are too large for the memory run in tiles on the CPU ("auto"), never ("off"), or in tiles of at most "WIDTHxHEIGHT"
    pixels.

    Safe to share between threads: each stream keeps its own state. On a GPU, SLOTS frames of a stream are under way at
    once. Raises UsageError for a bad argument, EngineError when no engine can be opened.
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
        tile: str = "auto",
    ) -> None:
        self._lock = threading.Lock()
        self.strength = strength
        self.gating = gating
        self.stats = Stats()
        self._threads, self._tile = threads or 0, tile
        self._choice = EngineChoice(preset, device, backend, threads)
        self._prepared: set[tuple[Any, ...]] = set()
        self._engine: Engine | GpuEngine | None = None
        self._runner: Runner | None = None
        Tiling(self._choice.manifest, tile)  # shows now whether it says something
        self._open()

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
    def engine(self) -> Engine | GpuEngine:
        """The open engine. Raises UsageError after ``close``."""
        if self._engine is None:
            raise UsageError("this Deblurrer is closed")
        return self._engine

    @overload
    def __call__(self, image: Frame) -> Frame: ...
    @overload
    def __call__(self, image: Plane) -> Plane: ...
    @overload
    def __call__(self, image: Any) -> DeviceArray: ...
    def __call__(self, image: Any) -> Any:
        """Restore one picture with both branches: an (H, W, 3) uint8 BGR array, or a Frame; the same comes back.

        An array may lie in the GPU's memory (anything with DLPack or ``__cuda_array_interface__``): then so does the
        result, and nothing is copied. It lies in memory of the engine, which is used again once the array is gone.
        """
        frame = image if isinstance(image, Frame) else _bgr_frame(image)
        result = self._submit(frame, Decision()).result().frame
        return result if isinstance(image, Frame) else result.planes[0]

    def submit(self, frame: Frame) -> Pending:
        """Start on one picture, outside any stream. Its memory is read until the result is there."""
        return Pending(self._submit(frame, Decision()))

    def maps(self, image: Plane) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Person mask and blur gate of an (H, W, 3) uint8 BGR array, one value per cell of map_stride pixels."""
        frame = _bgr_frame(image)
        with self._ready(frame) as runner:
            mask, gate = runner.maps(frame)
        return mask, gate

    def pinned_frame(
        self,
        width: int,
        height: int,
        pixel_format: PixelFormat = PixelFormat.BGR24,
        color: ColorSpec | None = None,
    ) -> Frame:
        """An uninitialised frame to fill and to hand back to this Deblurrer.

        On a GPU its memory is page-locked, so that the GPU copies from it directly; it returns to a pool when the last
        reference to its planes is gone. On the CPU it is ordinary memory.
        """
        planes = tuple(np.empty(shape, np.uint8) for shape in plane_shapes(pixel_format, width, height))
        frame = Frame(planes, pixel_format, color or ColorSpec())
        with self._ready(frame) as runner:
            return runner.pinned(frame)

    def open_stream(self) -> DeblurStream:
        """State for one stream of consecutive frames; any number may be open at once."""
        return DeblurStream(self)

    def stream(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Restored frames in order. Fetching, computing and consuming overlap, each a frame or two ahead."""
        with prefetch(frames) as fetched, prefetch(map(self.open_stream().submit, fetched)) as submitted:
            for pending in submitted:
                yield pending.result()

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        with self._lock:
            runner, self._runner, self._engine = self._runner, None, None
        if runner is not None:
            runner.close()

    def __enter__(self) -> Deblurrer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, failure: EngineError | None = None) -> None:
        """Go on to the next engine that works. Raises EngineError where none is left; the one before then stays."""
        while True:
            engine = self._choice.next(failure)
            try:
                runner = self._run(engine)
                break
            except BaseException as error:
                engine.close()
                if not isinstance(error, EngineError):
                    raise
                failure = error
        if self._runner is not None:
            self._runner.close()
        self._prepared.clear()
        self._runner, self._engine, self._on_gpu = runner, engine, on_gpu(engine)

    def _run(self, engine: Engine | GpuEngine) -> Runner:
        if not on_gpu(engine):
            return CpuRunner(cast(Engine, engine), self._threads, self._tile)
        from crispstream.runners.gpu import GpuRunner

        if self._tile not in ("auto", "off"):
            raise UsageError(f"engine {engine.name} takes whole frames, not tiles", "add --device cpu")
        return GpuRunner(engine)

    @contextmanager
    def _ready(self, frame: Frame) -> Iterator[Runner]:
        """The runner, prepared for frames like this; the next engine's where this one cannot take them.

        Until the block is left no other thread can take it away by a frame that needs the next engine. Nobody waits
        longer for it: on a CPU frames are computed one after the other anyway, and a GPU's are only handed over.
        """
        key = (frame.width, frame.height, frame.format, frame.color)
        with self._lock:
            while True:
                if self._runner is None:
                    raise UsageError("this Deblurrer is closed")
                if isinstance(frame, DeviceFrame) and not self._on_gpu:
                    message = f"the frame is in a GPU's memory, engine {self.engine.name} runs on the CPU"
                    raise UsageError(message, "hand over a NumPy array, or see crispstream doctor")
                if key in self._prepared:
                    break
                try:
                    self._runner.prepare(frame)
                    self._prepared.add(key)
                except EngineError as error:
                    try:
                        self._open(error)
                    except EngineError:
                        raise error from None  # this one goes on with the sizes that it takes
            yield self._runner

    def _submit(self, frame: Frame, decision: Decision) -> Future[Outcome]:
        """A future that is done once the frame is also counted: who waits for it may read ``stats``."""
        counted: Future[Outcome] = Future()

        def count(done: Future[Outcome]) -> None:
            try:
                outcome = done.result()
                self._account(outcome, decision)
            except BaseException as error:
                counted.set_exception(error)
            else:
                counted.set_result(outcome)

        with self._ready(frame) as runner:
            runner.submit(frame, decision, self._strength).add_done_callback(count)
        return counted

    def _account(self, outcome: Outcome, decision: Decision) -> None:
        stats = self.stats
        with stats.lock:
            first = outcome.non_finite > 0 and stats.non_finite == 0
            stats.frames += 1
            stats.non_finite += outcome.non_finite
            stats.variants[decision.variant] += 1
            for stage, seconds in outcome.seconds.items():
                stats.seconds[stage] += seconds
        if first:
            fp32 = "use --engine-backend onnxruntime, which computes in FP32"
            _logger.warning(
                "%d residual values were not finite and were dropped: those pixels stay as they were. If it recurs, %s",
                outcome.non_finite,
                fp32 if self._on_gpu else "install the engine again",
            )


def _bgr_frame(image: Any) -> Frame:
    if DeviceArray.offered_by(image):
        return DeviceFrame.wrap(image)
    try:
        return Frame.from_array(image, PixelFormat.BGR24)
    except (AttributeError, ValueError) as error:
        raise UsageError(str(error), "pass an (H, W, 3) uint8 BGR array or a crispstream.Frame") from error


class Pending:
    """A frame under way."""

    def __init__(self, future: Future[Outcome]) -> None:
        self._future = future

    def result(self) -> Frame:
        """The restored frame; waits for it. Raises EngineError where the engine fails."""
        return self._future.result().frame

    def head(self) -> npt.NDArray[np.float32] | None:
        """Person mask and blur gate as the frame was restored with, (2, rows, columns), one value per cell of
        map_stride pixels; None where they stay in a GPU's memory. Waits, and raises, like ``result``."""
        return self._future.result().head


class DeblurStream:
    """Consecutive frames of one video. Belongs to one thread at a time."""

    def __init__(self, deblurrer: Deblurrer) -> None:
        self._deblurrer = deblurrer
        self._gating, self._cuts = Gating(), CutDetector()
        self._size: tuple[int, int] | None = None
        self._under_way: deque[Future[Outcome]] = deque()
        self._since_reset = 0

    def submit(self, frame: Frame) -> Pending:
        """Start on the next frame; waits for the one SLOTS back, whose statistics decide. Results come in order.

        A discontinuity, another size or a scene cut (where the frame is not in a GPU's memory) starts afresh.
        Raises UsageError for what is no Frame, EngineError where the engine fails.
        """
        if not isinstance(frame, Frame):
            raise UsageError(
                f"expected a crispstream.Frame, got {type(frame).__name__}",
                "Frame.from_array makes one of an (H, W, 3) uint8 BGR array",
            )
        size, gating = (frame.width, frame.height), self._deblurrer.gating
        cut = gating and not isinstance(frame, DeviceFrame) and self._cuts.observe(frame)
        if cut:
            with self._deblurrer.stats.lock:
                self._deblurrer.stats.scene_cuts += 1
        if cut or frame.discontinuity or size != self._size or not gating:
            self._gating.reset()
            self._size, self._since_reset = size, 0
        statistics = None
        if len(self._under_way) == SLOTS:
            past = self._under_way.popleft()
            if past.exception() is None and self._since_reset >= SLOTS:  # whoever asked for that frame has the error
                statistics = past.result().statistics
        future = self._deblurrer._submit(frame, self._gating.decide(statistics))
        self._under_way.append(future)
        self._since_reset += 1
        return Pending(future)

    def process(self, frame: Frame) -> Frame:
        """Restore the next frame and wait for it."""
        return self.submit(frame).result()
