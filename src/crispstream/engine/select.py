# SPDX-License-Identifier: Apache-2.0
"""Which engine runs: the first that opens, or the one that is pinned."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from crispstream import quantised
from crispstream.cuda.driver import probe
from crispstream.engine.protocol import Engine, GpuEngine
from crispstream.errors import CrispStreamError, EngineError, UsageError
from crispstream.manifest import Manifest, load

Backend: TypeAlias = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-int8", "onnxruntime", "torch"]
BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx", "onnxruntime-int8", "onnxruntime", "torch")
ON_GPU: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx", "torch")
"""Those of BACKENDS that work on a GPU, in the order in which they are tried."""
_ON_CPU: tuple[Backend, ...] = ("onnxruntime-int8", "onnxruntime", "torch")

_logger = logging.getLogger("crispstream")
_said: set[str] = set()


class EngineChoice:
    """The engines that may run a preset, best first: TensorRT, TensorRT-RTX and PyTorch on a GPU, then ONNX Runtime
    (in INT8 only where ``quantised.reason_against`` has none) and PyTorch on the CPU.

    ``preset``: a name, or a folder with a manifest. ``device``: "auto" (a GPU where there is one), "cpu", "cuda",
    "cuda:N". ``backend``: one of BACKENDS alone, or "auto". ``threads``: of the CPU; None takes the CPU quota.
    Raises UsageError for a bad argument, EngineError where the engine's files are damaged.
    """

    def __init__(
        self, preset: str | Path, device: str = "auto", backend: str = "auto", threads: int | None = None
    ) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise UsageError(f"unknown device '{device}'", "auto, cpu, cuda or cuda:N")
        if backend not in ("auto", *BACKENDS):
            raise UsageError(f"unknown engine backend '{backend}'", f"auto, {', '.join(BACKENDS)}")
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads", "one at least")
        places = _places(device, backend)
        if not places:
            here = "a GPU" if device == "cpu" else "the CPU"
            raise UsageError(f"{backend} runs on {here}, not on {device}", "choose another --device or backend")
        if all(place.startswith("cuda") for _, place in places):
            _check_gpu(places[0][1])
        self.manifest = load(preset)
        if backend == "auto" and ("onnxruntime-int8", "cpu") in places and quantised.reason_against(self.manifest):
            places.remove(("onnxruntime-int8", "cpu"))
        self._threads = threads
        self._places = deque(places)
        self._failures: list[EngineError] = []

    def next(self, failure: EngineError | None = None) -> Engine | GpuEngine:
        """Open the next engine; ``failure`` is why the one before cannot be used after all.

        Logs, once for each reason, why it is not an earlier one. Raises EngineError where none is left: ``failure``,
        or what the only one failed with, if there was one alone.
        """
        if failure is not None:
            if not self._places:
                raise failure
            # Without its traceback, which holds the frame that failed.
            self._failures.append(EngineError(str(failure), failure.hint))
        while self._places:
            backend, device = self._places.popleft()
            try:
                engine = _open(backend, self.manifest, device, self._threads)
            except EngineError as error:
                self._failures.append(error)
                continue
            for earlier in self._failures:
                hint = f" ({earlier.hint})" if earlier.hint else ""
                _say_once(f"engine {engine.name} is used, because {earlier}{hint}")
            return engine
        if len(self._failures) == 1:
            raise self._failures[0]
        reasons = "; ".join(str(failure) for failure in self._failures)
        raise EngineError(f"no engine opens {self.manifest.preset}: {reasons}", "type: crispstream doctor")


def open_engine(
    preset: str | Path, device: str = "auto", backend: str = "auto", threads: int | None = None
) -> Engine | GpuEngine:
    """The first engine of ``EngineChoice``, which has the same arguments and errors."""
    return EngineChoice(preset, device, backend, threads).next()


def _places(device: str, backend: str) -> list[tuple[Backend, str]]:
    """Backends to try and the device of each. A GPU counts for "auto" only where the driver shows one."""
    places: list[tuple[Backend, str]] = []
    if device.startswith("cuda") or (device == "auto" and (probe().gpus or backend.startswith("tensorrt"))):
        places += [(name, "cuda" if device == "auto" else device) for name in ON_GPU]
    if device in ("auto", "cpu"):
        places += [(name, "cpu") for name in _ON_CPU]
    return [place for place in places if backend in ("auto", place[0])]


def _check_gpu(device: str) -> None:
    """Raise EngineError where the driver has no such GPU: no engine can say it better."""
    found = probe()
    if found.problem:
        raise EngineError(found.problem, found.hint)
    if int(device.partition(":")[2] or 0) >= len(found.gpus):
        there = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found.gpus)
        raise EngineError(f"there is no GPU {device}", f"there is {there}")


def _open(name: Backend, manifest: Manifest, device: str, threads: int | None) -> Engine | GpuEngine:
    try:
        with _interrupt_afterwards():
            if name == "onnxruntime":
                from crispstream.engine.onnxruntime import OnnxRuntimeEngine
            elif name == "onnxruntime-int8":
                from crispstream.engine.int8 import Int8Engine
            elif name == "torch":
                from crispstream.engine.torch import open_torch
            else:
                from crispstream.engine.tensorrt import TensorRtEngine
        if name == "onnxruntime":
            return OnnxRuntimeEngine(manifest, threads)
        if name == "onnxruntime-int8":
            return Int8Engine(manifest, quantised.load(manifest), threads)
        if name == "torch":
            return open_torch(manifest, device, threads)
        return TensorRtEngine(manifest, device, name)
    except ImportError as error:
        library = name.removesuffix("-int8")
        raise EngineError(f"{name} cannot be imported: {error}", f"pip install {library}") from error
    except CrispStreamError as error:
        raise EngineError(str(error), error.hint) from error


@contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Hold Ctrl-C back: an extension module turns a KeyboardInterrupt during its import into an ImportError."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    # Not a signal mask: the system would give the signal to another thread, and Python its handler to this one.
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _say_once(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        _logger.warning("%s", reason)
