# SPDX-License-Identifier: Apache-2.0
"""A GPU: its facts, and everything that is made on it."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

import numpy.typing as npt

from crispstream.cuda import driver, libcuda
from crispstream.cuda.driver import guard
from crispstream.cuda.graph import exclusive
from crispstream.cuda.memory import Buffer, Pinned
from crispstream.cuda.stream import Event, Stream
from crispstream.errors import EngineError
from crispstream.kernels.device import DeviceKernels
from crispstream.kernels.library import cuda_library

_logger = logging.getLogger("crispstream")


class Closable(Protocol):
    """What a device frees when it is closed."""

    def close(self) -> None: ...


class Device:
    """GPU ``index``, by its primary context. The facts may be read anywhere; the rest is for the worker's thread.

    ``compute_capability``: (major, minor). ``integrated``: it shares its memory with the processor (Jetson).
    ``driver_version``: 13000 for CUDA 13.0. ``kernels``: the pixel kernels. ``drv``: ``pycuda.driver``, for this
    package alone. Raises EngineError where driver, pycuda, kernels or GPU are not there.
    """

    def __init__(self, index: int) -> None:
        self.drv = driver.load()
        found = driver.probe()
        if index >= len(found.gpus):
            names = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found.gpus)
            raise EngineError(f"there is no GPU cuda:{index}", f"there is {names}")
        gpu = found.gpus[index]
        self.index, self.name, self.compute_capability = index, gpu.name, gpu.compute_capability
        self.multiprocessors, self.integrated = gpu.multiprocessors, gpu.integrated
        self.driver_version = found.version
        self.kernels = DeviceKernels(cuda_library(found.version))
        self._thread = threading.get_ident()
        self._owned: dict[int, Closable] = {}
        self._context: Any = guard(self.drv, self.drv.Device(index).retain_primary_context)
        try:
            guard(self.drv, self._context.push)
            libcuda.capture_alone()
        except EngineError:
            self._context.detach()
            raise

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and in all."""
        free, total = guard(self.drv, self.drv.mem_get_info)
        return int(free), int(total)

    def stream(self) -> Stream:
        """A new stream; it waits for no other stream but by ``wait`` and ``follow``. Raises EngineError."""
        return Stream(self)

    def event(self, timing: bool = False) -> Event:
        """A new event; one with ``timing`` can be asked for times, and costs more. Raises EngineError."""
        return Event(self, timing)

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory, not cleared. Raises EngineError where there is not enough."""
        return Buffer(self, nbytes)

    def pin(self, nbytes: int) -> Pinned:
        """Pinned host memory, zero. Raises EngineError where the system does not allow it."""
        return Pinned(self, nbytes)

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous array to device memory, in stream order; it stays alive and unchanged until then.

        An array that is not pinned is copied in two steps and slower. Raises EngineError.
        """
        guard(self.drv, self.drv.memcpy_htod_async, address, array, stream.pycuda)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Stream) -> None:
        """Fill a C-contiguous array from device memory, in stream order; it stays alive until then.

        Where the array is not pinned, this waits until the copy is done. Raises EngineError.
        """
        guard(self.drv, self.drv.memcpy_dtoh_async, array, address, stream.pycuda)

    def copy_within(self, to: int, origin: int, nbytes: int, stream: Stream) -> None:
        """Copy device memory from address ``origin`` to address ``to``, in stream order. Raises EngineError."""
        guard(self.drv, self.drv.memcpy_dtod_async, to, origin, nbytes, stream.pycuda)

    def zero(self, address: int, nbytes: int, stream: Stream) -> None:
        """Set device memory to 0, in stream order. Raises EngineError."""
        guard(self.drv, self.drv.memset_d8_async, address, 0, nbytes, stream.pycuda)

    def own(self, thing: Closable) -> None:
        """Close ``thing`` with the device, unless it is disowned before. What was made last goes first."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("what belongs to a GPU is made in its worker's thread: Worker.call")
        self._owned[id(thing)] = thing

    def disown(self, thing: Closable) -> None:
        """``thing`` is closed."""
        self._owned.pop(id(thing), None)

    def close(self) -> None:
        """Wait for the GPU, free everything that is left, release the context. Idempotent."""
        context, self._context = self._context, None
        if context is None:
            return
        with exclusive():  # waiting for the whole GPU would spoil a recording in another thread
            self._attempt(self.drv.Context.synchronize)
        for thing in reversed(list(self._owned.values())):
            self._attempt(thing.close)
        # Both: pycuda aborts the program when a thread ends with a context on its stack.
        self._attempt(self.drv.Context.pop)
        self._attempt(context.detach)

    def _attempt(self, function: Any) -> None:
        """One failure, for example after a crash on the GPU, must not keep the rest from being freed."""
        try:
            guard(self.drv, function)
        except Exception as error:
            _logger.warning("closing GPU %d: %s", self.index, error)
