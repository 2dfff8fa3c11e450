# SPDX-License-Identifier: Apache-2.0
"""The few driver functions that are needed without pycuda, or that pycuda does not offer.

Without it: asking what is there. Not offered: streams of other libraries (pycuda makes only its own), and pinning
memory that is ours (``pycuda.driver.register_host_memory`` fails from 2024.1 on: its issue 459).
"""

from __future__ import annotations

import ctypes
from functools import cache

from crispstream.errors import EngineError

LEGACY_STREAM = 1
"""CU_STREAM_LEGACY: the default stream of programs that name none."""
PER_THREAD_STREAM = 2
"""CU_STREAM_PER_THREAD: the default stream of the calling thread."""

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_DEVICEMAP = 2  # CU_MEMHOSTREGISTER_DEVICEMAP
_CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL


@cache
def libcuda() -> ctypes.CDLL:
    """The driver's library. Raises OSError where there is none. Signatures are those of cuda.h, 12.0 and later."""
    library = _open()
    integer, pointer, address = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64
    pointers = ctypes.POINTER(pointer)
    signatures = {
        "cuInit": (ctypes.c_uint,),
        "cuDriverGetVersion": (ctypes.POINTER(integer),),
        "cuDeviceGetCount": (ctypes.POINTER(integer),),
        "cuDeviceGet": (ctypes.POINTER(integer), integer),
        "cuDeviceGetName": (ctypes.c_char_p, integer, integer),
        "cuDeviceGetAttribute": (ctypes.POINTER(integer), integer, integer),
        "cuGetErrorString": (integer, ctypes.POINTER(ctypes.c_char_p)),
        "cuPointerGetAttribute": (pointer, integer, address),
        "cuMemHostRegister_v2": (pointer, ctypes.c_size_t, ctypes.c_uint),
        "cuMemHostUnregister": (pointer,),
        "cuMemHostGetDevicePointer_v2": (ctypes.POINTER(address), pointer, ctypes.c_uint),
        "cuEventCreate": (pointers, ctypes.c_uint),
        "cuEventRecord": (pointer, pointer),
        "cuEventDestroy_v2": (pointer,),
        "cuStreamWaitEvent": (pointer, pointer, ctypes.c_uint),
        "cuStreamSynchronize": (pointer,),
        "cuThreadExchangeStreamCaptureMode": (ctypes.POINTER(integer),),
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, integer
    return library


def _open() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def error_text(status: int) -> str:
    """The driver's words for a CUresult."""
    text = ctypes.c_char_p()
    libcuda().cuGetErrorString(status, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} (CUDA error {status})"


def register(address: int, nbytes: int, mapped: bool) -> int | None:
    """Pin host memory of whole pages; ``mapped``: return where the context's GPU sees it. Raises EngineError."""
    _call("cuMemHostRegister_v2", address, nbytes, _DEVICEMAP if mapped else 0)
    if not mapped:
        return None
    seen = ctypes.c_uint64()
    _call("cuMemHostGetDevicePointer_v2", ctypes.byref(seen), address, 0)
    return seen.value


def unregister(address: int) -> None:
    """Undo ``register``; the memory stays. Raises EngineError."""
    _call("cuMemHostUnregister", address)


def order(first: int, then: int) -> None:
    """Let stream ``then`` wait for the work that is on stream ``first`` now; both of the current context.

    Streams are handles, also those of other libraries. Raises EngineError, for example for a stream of another context.
    """
    event = ctypes.c_void_p()
    _call("cuEventCreate", ctypes.byref(event), _DISABLE_TIMING)
    try:
        _call("cuEventRecord", event, first)
        _call("cuStreamWaitEvent", then, event, 0)
    finally:
        # The driver keeps the event until the wait is over.
        _call("cuEventDestroy_v2", event)


def synchronize(stream: int) -> None:
    """Wait until ``stream``, a handle, has nothing left to do. Raises EngineError."""
    _call("cuStreamSynchronize", stream)


def capture_alone() -> None:
    """Keep this thread's calls and the graphs that other threads record apart. Raises EngineError.

    Without it, asking an event whether it is done is an error, there and here, while a thread records in global mode,
    as ``torch.cuda.graph`` does.
    """
    _call("cuThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(_CAPTURE_THREAD_LOCAL)))


def owner_of(address: int) -> int | None:
    """The index of the GPU that device (or pinned) memory belongs to; None for memory that CUDA does not know."""
    index = ctypes.c_int()
    status = libcuda().cuPointerGetAttribute(ctypes.byref(index), _DEVICE_ORDINAL, address)
    return None if status else index.value


def _call(name: str, *arguments: object) -> None:
    if status := getattr(libcuda(), name)(*arguments):
        raise EngineError(f"{name}: {error_text(status)}")
