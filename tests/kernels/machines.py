# SPDX-License-Identifier: Apache-2.0
"""Where the CUDA kernels run in tests: compiled for the CPU, or on a GPU. The same tests serve both."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from emulation.build import emulated_library

from crispstream.kernels.device import DeviceKernels
from crispstream.kernels.library import open_cuda_library

Bytes = npt.NDArray[np.uint8]


class Memory(Protocol):
    """Device memory."""

    address: int

    def write(self, data: Bytes) -> None: ...
    def read(self) -> Bytes: ...


class Machine(Protocol):
    """Memory, one stream and the kernels; ``call`` runs a function where they may be used."""

    kernels: DeviceKernels
    stream: int

    def allocate(self, nbytes: int, alignment: int) -> Memory: ...
    def call(self, function: Any, *arguments: Any) -> Any: ...
    def synchronize(self) -> None: ...


class GuardedMemory:
    """Host memory that ends, but for its alignment, at a page that ends the process when it is touched."""

    def __init__(self, nbytes: int, alignment: int) -> None:
        pages = -(-nbytes // mmap.PAGESIZE) + 1
        self._map = mmap.mmap(-1, pages * mmap.PAGESIZE)
        anchor = ctypes.c_char.from_buffer(self._map)
        guard = ctypes.addressof(anchor) + (pages - 1) * mmap.PAGESIZE
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(guard), mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        self.address = (guard - nbytes) // alignment * alignment
        self._bytes = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(self.address), np.uint8)
        self._anchor = anchor

    def write(self, data: Bytes) -> None:
        self._bytes[:] = data

    def read(self) -> Bytes:
        return self._bytes.copy()


class Emulated:
    """The kernels compiled by g++; nothing runs before ``synchronize``."""

    def __init__(self) -> None:
        self.library = open_cuda_library(emulated_library())
        self.library.emu_stream_create.restype = ctypes.c_void_p
        self.library.emu_stream_synchronize.argtypes = (ctypes.c_void_p,)
        self.kernels = DeviceKernels(self.library)
        self.stream: int = self.library.emu_stream_create()

    def allocate(self, nbytes: int, alignment: int) -> GuardedMemory:
        return GuardedMemory(nbytes, alignment)

    def call(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def synchronize(self) -> None:
        assert self.library.emu_stream_synchronize(self.stream) == 0

    def close(self) -> None:
        self.library.emu_stream_destroy.argtypes = (ctypes.c_void_p,)
        self.library.emu_stream_destroy(self.stream)

    def discard(self) -> int:
        """Close without running what waits; returns how much that was."""
        self.library.emu_stream_discard.argtypes = (ctypes.c_void_p,)
        pending: int = self.library.emu_pending()
        self.library.emu_stream_discard(self.stream)
        return pending


class GpuMemory:
    """Memory of the GPU."""

    def __init__(self, machine: Gpu, nbytes: int, alignment: int) -> None:
        self._machine, self._nbytes = machine, nbytes
        self._buffer = machine.call(machine.device.allocate, nbytes + 256)
        self.address = self._buffer.address + (256 - nbytes % 256) // alignment * alignment

    def write(self, data: Bytes) -> None:
        self._machine.call(self._machine.device.copy_in, self.address, np.ascontiguousarray(data), self._machine.queue)
        self._machine.synchronize()

    def read(self) -> Bytes:
        data = np.empty(self._nbytes, np.uint8)
        self._machine.call(self._machine.device.copy_out, data, self.address, self._machine.queue)
        self._machine.synchronize()
        return data

    def __del__(self) -> None:
        self._machine.call(self._buffer.free)


class Gpu:
    """The first GPU, through the package's own worker."""

    def __init__(self) -> None:
        from crispstream.cuda.worker import Worker

        self.worker = Worker(0)
        self.device = self.worker.device
        self.kernels = self.device.kernels
        self.queue = self.worker.call(self.device.stream)
        self.stream: int = self.queue.handle

    def allocate(self, nbytes: int, alignment: int) -> GpuMemory:
        return GpuMemory(self, nbytes, alignment)

    def call(self, function: Any, *arguments: Any) -> Any:
        return self.worker.call(function, *arguments)

    def synchronize(self) -> None:
        self.worker.call(self.queue.synchronize)

    def close(self) -> None:
        self.worker.close()
