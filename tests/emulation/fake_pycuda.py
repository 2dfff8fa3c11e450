# SPDX-License-Identifier: Apache-2.0
"""A machine with GPUs that are not there: ``pycuda.driver`` over the emulated kernel library.

It offers what CrispStream uses of pycuda, under pycuda's names, and keeps its rules, as its source (2022.1 to
2026.1) has them: an object works in the context, and so in the thread, that it was made in; freed in another thread
it leaks with a warning; a thread that ends with a context on its stack aborts the program. ``Machine.faults`` lists
broken rules, ``Machine.leaks`` what was not freed, ``Machine.pageable`` copies of memory that is not pinned.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE = "out of memory", "invalid device context", "invalid resource handle"


class Error(Exception):
    """``pycuda.driver.Error``."""


class LogicError(Error):
    """``pycuda.driver.LogicError``."""


class OutOfMemoryError(Error):
    """``pycuda.driver.MemoryError``."""


class LaunchError(Error):
    """``pycuda.driver.LaunchError``."""


@dataclass
class FakeGpu:
    """One GPU of the machine."""

    name: str = "Emulated GPU"
    compute_capability: tuple[int, int] = (8, 6)
    multiprocessors: int = 4
    integrated: bool = False
    memory: int = 1 << 30


@dataclass
class Machine:
    """The GPUs, and everything that lives on them. ``library``: the emulated kernel library (CDLL)."""

    library: Any
    gpus: list[FakeGpu] = field(default_factory=lambda: [FakeGpu()])
    driver_version: int = 13000
    built_for: tuple[int, int, int] = (12, 6, 0)
    start_status: int = 0
    broken: bool = False
    """After a crash on a GPU every call fails."""

    def __post_init__(self) -> None:
        # Workers of several GPUs count side by side. Reentrant: the collector frees objects at any point of a thread.
        self._counting = threading.RLock()
        self.alive: Counter[str] = Counter()
        self.retained: Counter[int] = Counter()
        self.stacks: dict[int, list[Any]] = {}
        self.allocations: dict[int, tuple[Any, int]] = {}
        self.registered: dict[int, int] = {}
        self.faults: list[str] = []
        self.pageable: list[str] = []
        self.staged: list[Any] = []
        pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for name, result, arguments in (
            ("emu_stream_create", pointer, ()),
            ("emu_stream_destroy", None, (pointer,)),
            ("emu_stream_synchronize", integer, (pointer,)),
            ("emu_event_create", pointer, ()),
            ("emu_event_destroy", None, (pointer,)),
            ("emu_event_record", integer, (pointer, pointer)),
            ("emu_stream_wait_event", integer, (pointer, pointer)),
            ("emu_event_query", integer, (pointer,)),
            ("emu_event_synchronize", integer, (pointer,)),
            ("emu_copy", integer, (pointer, pointer, size, pointer)),
            ("emu_fill", integer, (pointer, integer, size, pointer)),
        ):
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, result

    def leaks(self) -> dict[str, int]:
        """What is still there, by kind; empty when all was freed."""
        counts = {**self.alive, "allocation": len(self.allocations), "pinned": len(self.registered)}
        counts["context"] = sum(self.retained.values())
        counts["context on a thread's stack"] = sum(map(len, self.stacks.copy().values()))
        return {kind: n for kind, n in counts.items() if n}

    def count(self, counts: Counter[Any], what: Any, change: int) -> None:
        """Add ``change`` to ``counts[what]``, whichever thread calls."""
        with self._counting:
            counts[what] += change

    def current(self) -> Context:
        """The calling thread's context. Raises LogicError where there is none."""
        stack = self.stacks.get(threading.get_ident())
        if not stack:
            raise LogicError(f"explicit_context_dependent failed: {INVALID_CONTEXT} - no currently active context?")
        return stack[-1]

    def check(self, status: int = 0) -> None:
        """Raise for a CUDA call that fails."""
        if self.broken:
            raise LaunchError("cuCall failed: unspecified launch failure")
        if status:
            raise LogicError(f"cuCall failed: status {status}")

    def pinned(self, address: int, nbytes: int) -> bool:
        """True where all of that host memory is registered."""
        return any(start <= address and address + nbytes <= start + n for start, n in self.registered.copy().items())


class Context:
    """``pycuda.driver.Context``, of one retention of a primary context."""

    machine: Machine

    def __init__(self, device: int) -> None:
        self.device, self.valid, self.thread = device, True, threading.get_ident()
        self.machine.count(self.machine.retained, device, 1)

    def push(self) -> None:
        self.machine.check()
        self.machine.stacks.setdefault(threading.get_ident(), []).append(self)

    def detach(self) -> None:
        if not self.valid:
            raise LogicError("context::detach failed: cannot detach from invalid context")
        if threading.get_ident() != self.thread:
            self.machine.faults.append("context detached in another thread: leaked")
            return
        self.valid = False
        self.machine.count(self.machine.retained, self.device, -1)


class Bound:
    """What belongs to the context in which it was made."""

    machine: Machine
    kind: str

    def __init__(self) -> None:
        self.context = self.machine.current()
        self.machine.check()
        self.machine.count(self.machine.alive, self.kind, 1)

    def here(self) -> None:
        """Raise unless this is the right thread, with the right context."""
        if self.machine.current() is not self.context:
            raise LogicError(f"{self.kind} failed: {INVALID_HANDLE}")

    def freed(self) -> bool:
        """Count a release; False where pycuda would leak the object."""
        if not self.context.valid:
            return False  # silently
        if threading.get_ident() != self.context.thread:
            self.machine.faults.append(f"{self.kind} in out-of-thread context could not be cleaned up")
            return False
        self.machine.count(self.machine.alive, self.kind, -1)
        return True


class Stream(Bound):
    """``pycuda.driver.Stream``."""

    kind = "stream"

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        if flags not in (0, 1):
            raise LogicError("cuStreamCreate failed: invalid argument")
        if not flags:
            self.machine.faults.append("a blocking stream, which the legacy default stream serialises")
        self.handle = self.machine.library.emu_stream_create()

    def __del__(self) -> None:
        if hasattr(self, "handle") and self.freed():
            self.machine.library.emu_stream_destroy(self.handle)

    def synchronize(self) -> None:
        self.here()
        self.machine.check(self.machine.library.emu_stream_synchronize(self.handle))

    def wait_for_event(self, event: Event) -> None:
        self.here()
        event.here()
        self.machine.check(self.machine.library.emu_stream_wait_event(self.handle, event.raw))


class Event(Bound):
    """``pycuda.driver.Event``."""

    kind = "event"

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self.timing, self.recorded = not flags & event_flags.DISABLE_TIMING, False
        self.raw = self.machine.library.emu_event_create()

    def __del__(self) -> None:
        if hasattr(self, "raw") and self.freed():
            self.machine.library.emu_event_destroy(self.raw)

    def record(self, stream: Stream) -> Event:
        self.here()
        stream.here()
        self.recorded = True
        self.machine.check(self.machine.library.emu_event_record(self.raw, stream.handle))
        return self

    def query(self) -> bool:
        self.here()
        self.machine.check()
        return bool(self.machine.library.emu_event_query(self.raw))

    def synchronize(self) -> Event:
        self.here()
        self.machine.check(self.machine.library.emu_event_synchronize(self.raw))
        return self

    def time_since(self, start: Event) -> float:
        self.here()
        if not (self.timing and start.timing and self.recorded and start.recorded):
            raise LogicError(f"cuEventElapsedTime failed: {INVALID_HANDLE}")
        return 0.25


class DeviceAllocation(Bound):
    """``pycuda.driver.DeviceAllocation``."""

    kind = "device memory"

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        # Filled with what is not zero: nobody may rely on fresh memory.
        self.memory = np.full(nbytes + 256, 0xA5, np.uint8)
        self.address = (int(self.memory.ctypes.data) + 255) // 256 * 256
        self.machine.allocations[self.address] = (self.memory, self.context.device)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        if not self.address:
            raise LogicError(f"device_allocation::free failed: {INVALID_HANDLE}")
        address, self.address = self.address, 0
        if self.freed():
            self.memory[:] = 0x5A
            del self.machine.allocations[address]

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self.free()


event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2, INTERPROCESS=4)


def modules(machine: Machine) -> dict[str, ModuleType]:
    """``pycuda`` and ``pycuda.driver`` on this machine, for ``sys.modules``."""
    package, drv = ModuleType("pycuda"), ModuleType("pycuda.driver")
    package.VERSION, package.VERSION_TEXT, package.driver = (2026, 1), "2026.1", drv  # type: ignore[attr-defined]
    package.__spec__ = ModuleSpec("pycuda", None)
    for kind in (Context, Stream, Event, DeviceAllocation):
        setattr(drv, kind.__name__, type(kind.__name__, (kind,), {"machine": machine}))
    library, context = machine.library, drv.Context  # type: ignore[attr-defined]

    def pop() -> None:
        machine.current()
        machine.stacks[threading.get_ident()].pop()

    def synchronize() -> None:
        machine.current()
        machine.check(library.emu_stream_synchronize(None))

    def mem_get_info() -> tuple[int, int]:
        total = machine.gpus[machine.current().device].memory
        return total - sum(memory.nbytes for memory, _ in machine.allocations.copy().values()), total

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        if nbytes <= 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        if nbytes > mem_get_info()[0]:
            raise OutOfMemoryError(f"cuMemAlloc failed: {OUT_OF_MEMORY}")
        return drv.DeviceAllocation(nbytes)  # type: ignore[attr-defined, no-any-return]

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        stream.here()
        address, nbytes = _host(src, writable=False)
        if not machine.pinned(address, nbytes):
            # The driver takes pageable memory at once into a buffer of its own.
            machine.pageable.append("memcpy_htod_async")
            src = np.frombuffer(ctypes.string_at(address, nbytes), np.uint8)
            machine.staged.append(src)
            address = int(src.ctypes.data)
        machine.check(library.emu_copy(dest, address, nbytes, stream.handle))

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        stream.here()
        address, nbytes = _host(dest, writable=True)
        machine.check(library.emu_copy(address, src, nbytes, stream.handle))
        if not machine.pinned(address, nbytes):
            machine.pageable.append("memcpy_dtoh_async")
            stream.synchronize()

    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        stream.here()
        machine.check(library.emu_copy(dest, src, size, stream.handle))

    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        stream.here()
        machine.check(library.emu_fill(dest, data, size, stream.handle))

    def device(index: int) -> SimpleNamespace:
        if not 0 <= index < len(machine.gpus):
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        return SimpleNamespace(retain_primary_context=lambda: context(index))

    context.pop, context.synchronize = staticmethod(pop), staticmethod(synchronize)
    functions = (mem_get_info, mem_alloc, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async, memset_d8_async)
    vars(drv).update({function.__name__: function for function in functions})
    vars(drv).update(Error=Error, event_flags=event_flags, Device=device)
    vars(drv).update(init=lambda: machine.check(machine.start_status), get_version=lambda: machine.built_for)
    return {"pycuda": package, "pycuda.driver": drv}


def _host(array: Any, writable: bool) -> tuple[int, int]:
    """Address and size of an array, under the rules of pycuda's buffer requests."""
    if writable and not array.flags.writeable:
        raise ValueError("buffer source array is read-only")
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise ValueError("ndarray is not contiguous")
    return int(array.ctypes.data), int(array.nbytes)
