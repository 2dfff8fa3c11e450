# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU, and pinned memory of the host."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from crispstream.cuda import libcuda
from crispstream.cuda.driver import guard
from crispstream.errors import EngineError
from crispstream.frame import Plane

if TYPE_CHECKING:
    from crispstream.cuda.device import Device


class Buffer:
    """``nbytes`` of device memory at ``address``, aligned to 256 bytes. Made and freed in the worker's thread."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._drv, self._device = device.drv, device
        try:
            self._memory: Any = guard(self._drv, self._drv.mem_alloc, nbytes)
        except EngineError as error:
            free, total = device.memory()
            message = f"{_mib(nbytes)} of GPU memory cannot be had: {_mib(free)} of {_mib(total)} are free ({error})"
            raise EngineError(message, "a smaller frame or preset; nvidia-smi lists who uses the GPU") from None
        self.address, self.nbytes = int(self._memory), nbytes
        device.own(self)

    def free(self) -> None:
        """Give the memory back. Nothing on the GPU uses it any more. Idempotent."""
        memory, self._memory = self._memory, None
        self._device.disown(self)
        if memory is not None:
            guard(self._drv, memory.free)

    close = free


class Pinned:
    """Host memory that the GPU copies from and to at full speed, and without stopping the host.

    ``array``: (nbytes,) uint8, aligned to a page. It stays valid, as ordinary memory, after ``free``: callers may
    keep a frame longer than the engine lives. ``device_address``: where an integrated GPU sees the same memory; None
    on a GPU with its own. Made and freed in the worker's thread.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device, self._pinned = device, False
        # A shared mapping: after a fork, a private one would be copied away from under the GPU by the first write.
        self.array: Plane = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
        self._address = int(self.array.ctypes.data)
        try:
            self.device_address = libcuda.register(self._address, nbytes, device.integrated)
        except EngineError as error:
            hint = "free some memory, or take smaller frames"
            raise EngineError(f"{_mib(nbytes)} of host memory cannot be pinned: {error}", hint) from None
        self._pinned = True
        device.own(self)

    def free(self) -> None:
        """Unpin the memory. No copy from or to it is under way. Idempotent."""
        pinned, self._pinned = self._pinned, False
        self._device.disown(self)
        if pinned:
            libcuda.unregister(self._address)

    close = free


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
