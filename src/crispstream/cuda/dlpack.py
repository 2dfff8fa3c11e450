# SPDX-License-Identifier: Apache-2.0
"""DLPack tensors of bytes, in and out: the C structures of dlpack.h 1.x and their capsules.

A producer's capsule holds a managed tensor. Whoever consumes it renames the capsule and calls the tensor's deleter
once; a capsule that nobody consumes calls it by itself. Both layouts are known: "dltensor" (before 1.0) and
"dltensor_versioned".
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from crispstream.errors import UsageError

CPU, CUDA, CUDA_MANAGED = 1, 2, 13  # DLDeviceType

_UINT = 1  # DLDataTypeCode
_READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
_MAJOR = 1

# The capsule keeps a pointer to its name, so the names live as long as the module.
_PLAIN, _USED_PLAIN = b"dltensor", b"used_dltensor"
_VERSIONED, _USED_VERSIONED = b"dltensor_versioned", b"used_dltensor_versioned"


class _Tensor(ctypes.Structure):
    """``DLTensor``; the strides count elements, and may be NULL where the tensor is compact."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Plain(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _python(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's C API. PYFUNCTYPE keeps the interpreter lock, and raises what the function raises."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_capsule_new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_capsule_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_capsule_rename = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_capsule_named = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
# The same for a capsule that is being destroyed: taking it as an object would bring it back to life.
_dying_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_dying_named = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)


class Bytes(NamedTuple):
    """A tensor of uint8. ``strides`` in bytes; ``device``: (DLDeviceType, index). ``owner`` keeps the memory alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: tuple[int, int]
    readonly: bool
    owner: object


class _Owner:
    """Calls a consumed tensor's deleter, once, when nothing uses the tensor any more."""

    def __init__(self, pointer: int, deleter: Any) -> None:
        self._pointer, self._deleter = pointer, deleter

    def __del__(self) -> None:
        if self._deleter:  # NULL: the producer has nothing to free
            self._deleter(self._pointer)


def consume(capsule: object, kinds: Sequence[int] = (CUDA, CUDA_MANAGED)) -> Bytes:
    """Take the tensor over; ``kinds``: the device types that are welcome.

    Raises UsageError for what is no such tensor; then the capsule stays its producer's.
    """
    managed: _Plain | _Versioned
    if _capsule_named(capsule, _VERSIONED):
        pointer, used = _capsule_pointer(capsule, _VERSIONED), _USED_VERSIONED
        managed = _Versioned.from_address(pointer)
        if managed.major != _MAJOR:
            raise UsageError(f"DLPack {managed.major}.{managed.minor} is not known", "DLPack 1 and what came before")
        readonly = bool(managed.flags & _READ_ONLY)
    elif _capsule_named(capsule, _PLAIN):
        pointer, used, readonly = _capsule_pointer(capsule, _PLAIN), _USED_PLAIN, False
        managed = _Plain.from_address(pointer)
    else:
        raise UsageError("this is not a DLPack tensor, or one that was consumed before", "ask for a new one")
    tensor = managed.tensor
    if (tensor.code, tensor.bits, tensor.lanes) != (_UINT, 8, 1):
        raise UsageError("a frame's planes are uint8", "convert the tensor: frame.to(torch.uint8)")
    if tensor.device_type not in kinds:
        raise UsageError(f"the tensor is not in a GPU's memory (DLPack device type {tensor.device_type})", "")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else compact(shape)
    device, address = (tensor.device_type, tensor.device_id), (tensor.data or 0) + tensor.byte_offset
    deleter = ctypes.cast(managed.deleter, ctypes.c_void_p).value
    _capsule_rename(capsule, used)
    return Bytes(address, shape, strides, device, readonly, _Owner(pointer, _Deleter(deleter) if deleter else None))


def export(tensor: Bytes, versioned: bool) -> object:
    """A capsule with ``tensor``, whose owner lives until the consumer's deleter call or the unused capsule's end.

    ``versioned``: the layout of DLPack 1; only that one can say that a tensor is read-only, so BufferError otherwise.
    """
    if tensor.readonly and not versioned:
        raise BufferError("a read-only array needs a consumer of DLPack 1: max_version=(1, 0)")
    numbers = ctypes.c_int64 * len(tensor.shape)
    shape, strides = numbers(*tensor.shape), numbers(*tensor.strides)
    managed: _Plain | _Versioned = _Versioned(major=_MAJOR) if versioned else _Plain()
    if isinstance(managed, _Versioned):
        managed.flags = _READ_ONLY if tensor.readonly else 0
    managed.deleter = _release
    inner = managed.tensor
    inner.data, (inner.device_type, inner.device_id) = tensor.address, tensor.device
    inner.ndim, inner.code, inner.bits, inner.lanes = len(shape), _UINT, 8, 1
    inner.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    inner.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    pointer = ctypes.addressof(managed)
    _exported[pointer] = (managed, shape, strides, tensor.owner)
    return _capsule_new(pointer, _VERSIONED if versioned else _PLAIN, ctypes.cast(_discard, ctypes.c_void_p))


def compact(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


# What consumers hold, by the address of the managed tensor.
_exported: dict[int, tuple[object, ...]] = {}


def _forget(pointer: int) -> None:
    _exported.pop(pointer, None)


def _forget_unused(capsule: int) -> None:
    for name in (_PLAIN, _VERSIONED):
        if _dying_named(capsule, name):
            _forget(_dying_pointer(capsule, name))


_release = _Deleter(_forget)
_discard = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_forget_unused)
for _callback in (_release, _discard):
    # A consumer's tensor may outlive this module when the interpreter ends; its deleter must not vanish.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))
