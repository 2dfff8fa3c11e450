# SPDX-License-Identifier: Apache-2.0
"""GPU work recorded once and launched in one go."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from crispstream.errors import EngineError

if TYPE_CHECKING:
    from crispstream.kernels.device import DeviceKernels

_recording = threading.Lock()


@contextmanager
def exclusive() -> Iterator[None]:
    """For recording, and for what would spoil one: no other thread of the process is inside, the collector is off.

    Waiting for the whole GPU in any thread ends every recording on it, PyTorch allows only one at a time in a process,
    and the collector could free GPU memory, which may not happen while a graph is recorded.
    """
    with _recording:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


class Graph:
    """Recorded work. Belongs to the worker's thread, like everything that it uses, which must live longer."""

    def __init__(self, kernels: DeviceKernels, graph: int) -> None:
        self._kernels, self._graph = kernels, graph

    def launch(self, stream: int) -> None:
        """Enqueue the work on ``stream`` (a CUstream). Raises EngineError."""
        self._kernels.graph_launch(self._graph, stream)

    def close(self) -> None:
        """Free the graph; no launch of it is under way. Idempotent."""
        graph, self._graph = self._graph, 0
        if graph:
            self._kernels.graph_destroy(graph)


def record(kernels: DeviceKernels, stream: int, function: Callable[[], None]) -> Graph:
    """Record what ``function`` enqueues on ``stream`` (a CUstream) and the streams that it forks to; nothing runs.

    What it calls has run once before, allocates nothing and does not wait. Raises what ``function`` raises, or
    EngineError; the stream is usable in any case.
    """
    with exclusive():
        try:
            return _record(kernels, stream, function)
        except EngineError:
            # Another library of this process that waits for the whole GPU spoils a recording: once more.
            return _record(kernels, stream, function)


def _record(kernels: DeviceKernels, stream: int, function: Callable[[], None]) -> Graph:
    kernels.capture_begin(stream)
    try:
        function()
    except BaseException:
        with suppress(EngineError):  # ending an unfinished recording may fail; it ends all the same
            kernels.graph_destroy(kernels.capture_end(stream))
        raise
    return Graph(kernels, kernels.capture_end(stream))
