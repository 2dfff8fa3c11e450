# SPDX-License-Identifier: Apache-2.0
"""What every engine offers, and the part of a session that does not depend on the library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from crispstream.errors import EngineError
from crispstream.manifest import PARTS, Manifest

if TYPE_CHECKING:
    from crispstream.cuda.worker import Worker

Array = npt.NDArray[Any]


class PaddedSize(Protocol):
    """What an engine needs to know of a frame: its padded size in pixels (``Geometry`` has it)."""

    @property
    def padded_width(self) -> int: ...
    @property
    def padded_height(self) -> int: ...


class EngineSession(Protocol):
    """The network for one frame size, with its memory. Belongs to one thread at a time.

    Fill ``packed`` (1, 3 s^2, H/s, W/s), call ``run``, read ``head`` (1, 2, H', W'), person mask and blur gate, and the
    residuals (as ``packed``; None for a branch that did not run). The arrays are the session's own: the next ``run``
    overwrites them. ``seconds`` says how long each part of the last run took.
    """

    @property
    def packed(self) -> Array: ...
    @property
    def head(self) -> Array: ...
    @property
    def foreground(self) -> Array | None: ...
    @property
    def background(self) -> Array | None: ...
    @property
    def seconds(self) -> dict[str, float]: ...

    def run(self, foreground: bool = True, background: bool = True) -> None:
        """Run the encoder and the wanted branches. Raises EngineError where the library fails."""


class Engine(Protocol):
    """A preset, opened by one inference library. May be used from any thread; ``name`` is the library's."""

    @property
    def name(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...

    def session(self, size: PaddedSize) -> EngineSession:
        """Everything that frames of this size need, allocated now. Raises EngineError."""

    def close(self) -> None:
        """Free the engine; a second call does nothing. Sessions must not run any more."""


class Graph(Protocol):
    """Recorded GPU work. Belongs to the worker's thread."""

    def launch(self, stream: int) -> None:
        """Enqueue the work on ``stream`` (a CUstream)."""

    def close(self) -> None:
        """Free the graph; no launch of it is under way. Idempotent."""


class GpuParts(Protocol):
    """The network on a GPU for one padded size, with its tensors. Made, used and closed in the worker's thread.

    ``packed``, ``head``, ``foreground``, ``background``: device addresses of FP16 tensors in NCHW, shaped as those of
    ``EngineSession``; valid until ``close``.
    """

    packed: int
    head: int
    foreground: int
    background: int

    def enqueue(self, part: str, stream: int) -> None:
        """Enqueue one of PARTS on ``stream`` (a CUstream); inside ``capture`` it is recorded. Raises EngineError."""

    def capture(self, stream: int, record: Callable[[], None]) -> Graph:
        """Record what ``record`` enqueues on ``stream``: kernels and parts that have run once before."""

    def close(self) -> None:
        """Free contexts and tensors. Idempotent."""


class GpuEngine(Protocol):
    """A preset, opened by one inference library on one GPU. ``worker`` owns the GPU's objects."""

    @property
    def name(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def worker(self) -> Worker: ...

    def open_parts(self, size: PaddedSize) -> GpuParts:
        """The network for frames of this padded size. In the worker's thread. Raises EngineError: no plan fits."""

    def close(self) -> None:
        """Free the engine and end the worker; a second call does nothing. Any thread."""


def on_gpu(engine: Engine | GpuEngine) -> TypeGuard[GpuEngine]:
    """Whether the engine works on a GPU."""
    return hasattr(engine, "worker")


def check_padded(manifest: Manifest, size: PaddedSize) -> None:
    """Raise EngineError where the size is not a multiple of what the preset's scales need."""
    width, height = size.padded_width, size.padded_height
    if width % manifest.multiple or height % manifest.multiple:
        message = f"{width}x{height} is not padded to a multiple of {manifest.multiple}"
        raise EngineError(message, "Geometry.for_size pads")


class PartsSession(ABC):
    """An ``EngineSession`` whose results arrive in NumPy arrays; a library adds how one part runs."""

    def __init__(self, manifest: Manifest, size: PaddedSize) -> None:
        self._manifest, self._size = manifest, size
        self.packed = self._allocate("packed")
        self.head = self._allocate("head")
        self.foreground: Array | None = None
        self.background: Array | None = None
        self.seconds: dict[str, float] = {}
        self._residuals = {part: self._allocate("residual") for part in PARTS[1:]}

    def run(self, foreground: bool = True, background: bool = True) -> None:
        """Run the encoder and the wanted branches. Raises EngineError where the library fails."""
        self.seconds = {}
        for part, wanted in zip(PARTS, (True, foreground, background), strict=True):
            if wanted:
                start = perf_counter()
                self._run_part(part)
                self.seconds[part] = perf_counter() - start
        self.foreground = self._residuals["foreground"] if foreground else None
        self.background = self._residuals["background"] if background else None

    def _allocate(self, tensor: str) -> Array:
        found = self._manifest.tensors[tensor]
        return np.zeros(found.sizes(self._size.padded_width, self._size.padded_height), np.dtype(found.dtype))

    @abstractmethod
    def _run_part(self, part: str) -> None:
        """Read ``packed`` or the features, write the features and ``head``, or the residual of ``part``."""
