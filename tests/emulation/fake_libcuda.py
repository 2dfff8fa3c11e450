# SPDX-License-Identifier: Apache-2.0
"""The driver's own library on an emulated machine: the functions that ``crispstream.cuda.libcuda`` names."""

from __future__ import annotations

import functools
from typing import Any

from emulation.fake_pycuda import Error, Machine

INVALID_VALUE, NO_DEVICE, INVALID_CONTEXT, NOT_REGISTERED = 1, 100, 201, 713


class FakeLibcuda:
    """Called like ``ctypes.CDLL("libcuda.so.1")``: pointers arrive as ``byref`` objects."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._library = machine, machine.library
        for name in [name for name in vars(type(self)) if name.startswith("cu")]:
            # A partial, unlike a method, takes the signature that is set on it.
            setattr(self, name, functools.partial(getattr(self, name)))

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._machine.start_status or (0 if self._machine.gpus else NO_DEVICE)

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._machine.driver_version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._machine.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:  # noqa: N802
        name.value = self._machine.gpus[device].name.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:  # noqa: N802
        gpu = self._machine.gpus[device]
        known = {16: gpu.multiprocessors, 18: gpu.integrated, 75: gpu.compute_capability[0]}
        value._obj.value = int({**known, 76: gpu.compute_capability[1]}[attribute])
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"emulated error"
        return 0

    def cuPointerGetAttribute(self, value: Any, attribute: int, address: int) -> int:  # noqa: N802
        for start, (memory, device) in self._machine.allocations.copy().items():  # another worker may allocate
            if start <= address < start + memory.nbytes:
                value._obj.value = device
                return 0
        return INVALID_VALUE

    def cuMemHostRegister_v2(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        if not self._inside():
            return INVALID_CONTEXT
        if address % 4096 or nbytes <= 0:
            return INVALID_VALUE
        self._machine.registered[address] = nbytes
        return 0

    def cuMemHostUnregister(self, address: int) -> int:  # noqa: N802
        if not self._inside():
            return INVALID_CONTEXT
        return 0 if self._machine.registered.pop(address, None) else NOT_REGISTERED

    def cuMemHostGetDevicePointer_v2(self, seen: Any, address: int, flags: int) -> int:  # noqa: N802
        seen._obj.value = address
        return 0 if address in self._machine.registered else NOT_REGISTERED

    def cuEventCreate(self, event: Any, flags: int) -> int:  # noqa: N802
        if not self._inside():
            return INVALID_CONTEXT
        event._obj.value = self._library.emu_event_create()
        return 0

    def cuEventRecord(self, event: Any, stream: int) -> int:  # noqa: N802
        return int(self._library.emu_event_record(event, _stream(stream)))

    def cuEventDestroy_v2(self, event: Any) -> int:  # noqa: N802
        self._library.emu_event_destroy(event)
        return 0

    def cuStreamWaitEvent(self, stream: int, event: Any, flags: int) -> int:  # noqa: N802
        return int(self._library.emu_stream_wait_event(_stream(stream), event))

    def cuStreamSynchronize(self, stream: int) -> int:  # noqa: N802
        return int(self._library.emu_stream_synchronize(_stream(stream)))

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802
        return 0 if mode._obj.value in (0, 1, 2) else INVALID_VALUE

    def _inside(self) -> bool:
        try:
            self._machine.current()
        except Error:
            return False
        return True


def _stream(handle: int) -> int | None:
    """The emulation knows the default streams, 1 and 2, as NULL."""
    return handle if handle > 2 else None
