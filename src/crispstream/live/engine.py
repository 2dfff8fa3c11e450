# SPDX-License-Identifier: Apache-2.0
"""The Deblurrer of a live stream, which may be exchanged for another one while frames flow."""

from __future__ import annotations

import logging
import threading
from typing import Any

from crispstream.deblurrer import Deblurrer, DeblurStream, Pending
from crispstream.engine.protocol import on_gpu
from crispstream.engine.select import BACKENDS
from crispstream.errors import UsageError
from crispstream.frame import Frame
from crispstream.manifest import available_presets

_logger = logging.getLogger("crispstream.live")


class LiveEngine:
    """``options``: keyword arguments of ``Deblurrer``. ``submit`` belongs to one thread, all else to any.

    Raises UsageError and EngineError at once where the first engine does not open.
    """

    def __init__(self, preset: str = "nano", **options: Any) -> None:
        self._first = preset
        self._options = {"preset": preset, **options}
        self._deblurrer = Deblurrer(**self._options)
        self._where = _place(self._deblurrer)
        _logger.info("engine: %s by %s on %s", preset, *self._where)
        self._stream: DeblurStream = self._deblurrer.open_stream()
        self._before: Deblurrer | None = None
        self._last: Frame | None = None
        self._lock = threading.Lock()
        self._coming: Deblurrer | None = None
        self._opening: dict[str, str] | None = None
        self._closed = False
        self.error = ""

    @property
    def strength(self) -> float:
        """Factor on the residual, 0 to 2."""
        return self._deblurrer.strength

    @strength.setter
    def strength(self, value: float) -> None:
        with self._lock:
            self._deblurrer.strength = value
            self._options["strength"] = value
            if self._coming is not None:
                self._coming.strength = value

    @property
    def map_stride(self) -> int:
        """Pixels per cell of the maps of the frame that was submitted last. Raises UsageError after ``close``."""
        return self._deblurrer.engine.manifest.map_stride

    def submit(self, frame: Frame) -> tuple[Pending, Deblurrer | None]:
        """Start on the next frame. Also the Deblurrer that was in use before, where this frame is the first of another
        one: to be closed when its frames are done. Raises EngineError."""
        with self._lock:
            self._last = frame
            coming, self._coming = self._coming, None
            fruitless = None
            if coming is not None:
                if self._before is not None:  # the one in use has not begun a single frame
                    fruitless = self._deblurrer
                self._before = self._before or self._deblurrer
                self._deblurrer, self._where = coming, _place(coming)
                self._stream = coming.open_stream()
        if fruitless is not None:
            fruitless.close()
        pending = self._stream.submit(frame)
        with self._lock:
            before, self._before = self._before, None  # until now it is kept, in order to be closed
            self._where = _place(self._deblurrer)  # the frame may have sent it on to its next engine
        return pending, before

    def switch(self, preset: str, backend: str | None = None) -> None:
        """Open another engine beside this one and go over to it when it is ready; ``error`` says why it is not.

        ``backend``: None keeps the one that was asked for last. Raises UsageError for names that do not exist and while
        another switch is under way.
        """
        if preset not in self.presets():
            raise UsageError(f"there is no engine '{preset}'", f"one of {', '.join(self.presets())}")
        if backend is None:
            backend = str(self._options.get("backend", "auto"))
        if backend not in ("auto", *BACKENDS):
            raise UsageError(f"there is no backend '{backend}'", f"one of auto, {', '.join(BACKENDS)}")
        with self._lock:
            if self._opening is not None:
                raise UsageError("another engine is just being opened", "try again in a moment")
            opening = {"preset": preset, "backend": backend}
            threading.Thread(target=self._open, args=({**self._options, **opening},), daemon=True).start()
            self._opening, self.error = opening, ""

    def presets(self) -> list[str]:
        """What ``switch`` takes: the presets that are installed, and the one that this began with."""
        return list(dict.fromkeys((*available_presets(), self._first)))

    def status(self) -> dict[str, Any]:
        """JSON types. ``opening``: preset and backend of the engine that is being opened, None where none is."""
        opening, stage_ms, (name, device) = self._opening, self.figures()["stage_ms"], self._where
        return {
            "preset": self._options["preset"],
            "backend": self._options.get("backend", "auto"),
            "name": name,
            "device": device,
            "strength": self.strength,
            "ms": stage_ms.get("engine", stage_ms.get("gpu")),
            "opening": opening,
            "error": self.error,
        }

    def figures(self) -> dict[str, Any]:
        """What the Deblurrer in use has counted."""
        with self._deblurrer.stats.lock:
            return self._deblurrer.stats.as_dict()

    def close(self) -> None:
        """Free the engines. Idempotent."""
        with self._lock:
            self._closed = True
            others = self._coming, self._before
            self._coming = self._before = None
        for other in others:
            if other is not None:
                other.close()
        self._deblurrer.close()

    def _open(self, options: dict[str, Any]) -> None:
        error = ""
        try:
            error = self._replace(options)
        finally:  # not before whatever is of no use is closed: with that another switch is let in
            with self._lock:
                self.error, self._opening = error, None

    def _replace(self, options: dict[str, Any]) -> str:
        """Have the next frame go to an engine with these options; why it will not."""
        coming = None
        try:
            coming = Deblurrer(**options)
            # On a frame like those to come: what is allocated or refused for their size is known before the change.
            if self._last is not None:
                coming.submit(self._last).result()
        except Exception as error:  # whatever is wrong with it, the stream goes on as it is
            reason = str(error) or type(error).__name__
            _logger.error("engine %s: %s", options["preset"], reason)
            if coming is not None:
                coming.close()
            return reason
        with self._lock:
            unused: Deblurrer | None = coming
            if not self._closed:
                coming.strength = self._deblurrer.strength
                self._coming, unused = coming, self._coming
                self._options = {**options, "strength": coming.strength}
                _logger.info("engine: %s by %s on %s", options["preset"], *_place(coming))
        if unused is not None:
            unused.close()
        return ""


def _place(deblurrer: Deblurrer) -> tuple[str, str]:
    """Name of the engine in use and where it runs: cpu, or cuda:N with the card's name."""
    engine = deblurrer.engine
    if not on_gpu(engine):
        return engine.name, "cpu"
    device = engine.worker.device
    return engine.name, f"cuda:{device.index} ({device.name})"
