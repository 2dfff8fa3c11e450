# SPDX-License-Identifier: Apache-2.0
"""Which engine runs: the first that opens, or the one that is pinned."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crispstream.engine.protocol import Engine
from crispstream.errors import CrispStreamError, EngineError, UsageError
from crispstream.manifest import Manifest, load

BACKENDS = ("onnxruntime", "torch")
"""In the order in which "auto" tries them."""

_logger = logging.getLogger("crispstream")
_said: set[str] = set()


def open_engine(preset: str | Path, device: str = "auto", backend: str = "auto", threads: int | None = None) -> Engine:
    """Open ``preset`` (a name, or a folder with a manifest).

    ``device``: "auto", "cpu", "cuda", "cuda:N"; CUDA means PyTorch. ``backend``: "auto" takes the first of BACKENDS
    that opens and logs once why an earlier one did not; a name pins that one. ``threads``: None takes the CPU quota.
    Raises UsageError for a bad argument, EngineError where the files are damaged or nothing opens.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"unknown device '{device}'", "auto, cpu, cuda or cuda:N")
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"unknown engine backend '{backend}'", f"auto, {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads", "one at least")
    if device.startswith("cuda") and backend == "onnxruntime":
        raise UsageError(f"onnxruntime runs on the CPU here, not on {device}", "--device cpu or --engine-backend torch")
    manifest = load(preset)
    if backend != "auto":
        return _open(backend, manifest, device, threads)
    failures: list[EngineError] = []
    for name in BACKENDS[1:] if device.startswith("cuda") else BACKENDS:
        try:
            engine = _open(name, manifest, device, threads)
        except EngineError as error:
            failures.append(error)
            continue
        for failure in failures:
            _say_once(f"engine {engine.name} is used, because {failure}")
        return engine
    reasons = "; ".join(str(failure) for failure in failures)
    raise EngineError(f"no engine opens {manifest.preset}: {reasons}", failures[0].hint)


def _open(name: str, manifest: Manifest, device: str, threads: int | None) -> Engine:
    try:
        if name == "onnxruntime":
            with _interrupt_afterwards():
                from crispstream.engine.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(manifest, threads)
        with _interrupt_afterwards():
            from crispstream.engine.torch import TorchEngine

        return TorchEngine(manifest, device, threads)
    except ImportError as error:
        raise EngineError(f"{name} cannot be imported: {error}", f"pip install {name}") from error
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
