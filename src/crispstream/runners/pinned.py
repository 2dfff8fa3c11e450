# SPDX-License-Identifier: Apache-2.0
"""Memory of frames, lent to callers and taken back when they let go: page-locked on the host, or a GPU's."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crispstream.cuda.device import Device
from crispstream.cuda.interop import DeviceArray
from crispstream.cuda.memory import Buffer, Pinned
from crispstream.cuda.worker import Worker
from crispstream.errors import EngineError
from crispstream.frame import Frame, Plane
from crispstream.runners.layout import FrameLayout

LENT_BYTES = 256 * 2**20
"""Page-locked memory is taken from the whole machine: no more than this is held for frames of one layout."""


class Block(NamedTuple):
    """Memory of one frame. ``array``: its bytes; ``address``: of the same memory on an integrated GPU, else None."""

    array: npt.NDArray[np.uint8]
    address: int | None


class PinnedFrames:
    """Blocks of one layout. ``lend``, ``block_of`` and ``close`` belong to the worker's thread; blocks come back from
    any."""

    def __init__(self, device: Device, layout: FrameLayout) -> None:
        self._device, self._layout = device, layout
        self._pinned: dict[int, Pinned] = {}
        self._free: deque[Pinned] = deque()

    def reserve(self, blocks: int) -> None:
        """Pin so many blocks now: it takes milliseconds that no frame should wait for. Raises EngineError."""
        for _ in range(blocks):
            self._pin()

    def _pin(self) -> None:
        pinned = self._device.pin(self._layout.nbytes)
        self._pinned[pinned.array.ctypes.data] = pinned
        self._free.append(pinned)

    def lend(self) -> tuple[tuple[Plane, ...], Block]:
        """Planes of a frame and the block they lie in: ordinary memory where LENT_BYTES of page-locked are all lent."""
        size = self._layout.nbytes
        if not self._free and (len(self._pinned) + 1) * size > max(LENT_BYTES, 4 * size):
            array = np.empty(size, np.uint8)
            return self._layout.planes(array), Block(array, None)
        if not self._free:
            self._pin()
        pinned = self._free.popleft()
        lease = _HostLease(pinned.array)
        weakref.finalize(lease, self._free.append, pinned).atexit = False
        return self._layout.planes(np.asarray(lease)), _block(pinned)

    def block_of(self, frame: Frame) -> Block | None:
        """The page-locked block that holds the whole frame, as this layout has it; None where it lies elsewhere."""
        pinned = self._pinned.get(frame.planes[0].ctypes.data)
        return _block(pinned) if pinned is not None and self._layout.is_one_block(frame) else None

    def close(self) -> None:
        """Unlock the memory; frames that are still lent stay readable. Idempotent."""
        for pinned in self._pinned.values():
            pinned.free()
        self._pinned.clear()
        self._free.clear()


class DeviceFrames:
    """Blocks of one layout in the GPU's memory. ``lend`` and ``close`` belong to the worker's thread."""

    def __init__(self, worker: Worker, layout: FrameLayout) -> None:
        self._worker, self._layout = worker, layout
        self._free: deque[Buffer] = deque()
        self._closed = False

    def lend(self) -> tuple[DeviceArray, ...]:
        """Planes in a free block. Raises EngineError where the GPU has no memory left."""
        layout = self._layout
        buffer = self._free.popleft() if self._free else self._worker.device.allocate(layout.nbytes)
        lease = _DeviceLease()
        weakref.finalize(lease, self._take_back, buffer).atexit = False
        addresses = layout.addresses(buffer.address)
        return tuple(
            DeviceArray(address, shape, (stride, *layout.inner_strides(shape)), lease, self._worker.device.index)
            for address, shape, stride in zip(addresses, layout.shapes, layout.strides, strict=True)
        )

    def close(self) -> None:
        """Free the memory; that of frames which are lent, when they come back or the worker ends. Idempotent."""
        self._closed = True
        while self._free:
            self._free.popleft().free()

    def _take_back(self, buffer: Buffer) -> None:
        """In any thread, whenever the last plane is gone."""
        if not self._closed:
            self._free.append(buffer)
            return
        with suppress(EngineError):  # a worker that has ended freed it
            self._worker.post(buffer.free)


class _DeviceLease:
    """What every plane of a lent block keeps alive."""


def _block(pinned: Pinned) -> Block:
    return Block(pinned.array, pinned.device_address)


class _HostLease:
    """What every view of a lent block keeps alive: NumPy holds on to the object that an array was made from."""

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self._array = array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._array.__array_interface__
