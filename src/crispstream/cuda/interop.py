# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory, from and for other libraries, without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crispstream.cuda import dlpack, libcuda
from crispstream.errors import UsageError

if TYPE_CHECKING:
    from crispstream.cuda.device import Device
    from crispstream.cuda.stream import Stream


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """uint8 values in a GPU's memory.

    ``address`` of the first value; ``shape``; ``strides`` in bytes; ``owner``: what keeps the memory alive.
    ``device``: the GPU's index, None where the producer does not tell. ``stream``: the CUstream on which the producer
    may still be writing, None where the values are there. Use it after ``prepare``.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: object
    device: int | None = None
    stream: int | None = None
    readonly: bool = False

    @staticmethod
    def wrap(thing: Any) -> DeviceArray:
        """The memory of ``thing``: a DeviceArray, or anything with ``__dlpack__`` or ``__cuda_array_interface__``.

        Call it in the thread that filled ``thing``. DLPack comes first: it hands over the stream, which PyTorch's
        ``__cuda_array_interface__`` leaves out. Raises UsageError: not in a GPU's memory, not uint8, malformed.
        """
        if isinstance(thing, DeviceArray):
            return thing
        if hasattr(thing, "__dlpack__"):
            try:
                return _from_dlpack(thing)
            except BufferError as error:  # PyTorch, where the array is not on its current GPU
                if not hasattr(thing, "__cuda_array_interface__"):
                    raise UsageError(f"the array is not handed over: {error}", "") from None
        try:
            interface = thing.__cuda_array_interface__
        except AttributeError:
            kind = type(thing).__name__
            message = f"{kind} has neither __dlpack__ nor __cuda_array_interface__"
            raise UsageError(message, "PyTorch, CuPy, Numba and pycuda arrays have") from None
        return _from_interface(thing, interface)

    @staticmethod
    def offered_by(thing: object) -> bool:
        """True where ``thing`` says that it lies in a GPU's memory."""
        if isinstance(thing, DeviceArray) or hasattr(thing, "__cuda_array_interface__"):
            return True
        where = getattr(thing, "__dlpack_device__", None)
        return where is not None and where()[0] in (dlpack.CUDA, dlpack.CUDA_MANAGED)

    def prepare(self, device: Device, stream: Stream, write: bool = False) -> None:
        """Let ``stream`` wait until the producer is done with the array. In the worker's thread.

        Raises UsageError where the array is another GPU's, or is read-only and to be written.
        """
        if write and self.readonly:
            raise UsageError("the output array is read-only", "")
        if (found := libcuda.owner_of(self.address)) != device.index:
            where = "unknown to CUDA" if found is None else f"of cuda:{found}"
            raise UsageError(
                f"the array's memory is {where}, the engine runs on cuda:{device.index}", "move one of them"
            )
        if self.stream is not None:
            stream.follow(self.stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the protocol."""
        data = self.address, self.readonly
        shared = {"shape": self.shape, "strides": self.strides, "typestr": "|u1", "data": data, "version": 3}
        return {**shared, "stream": self.stream}

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the array is. Raises BufferError where its producer did not tell."""
        if self.device is None:
            raise BufferError("the array's GPU is not known")
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule, safe to be used on ``stream`` (None: the legacy default; -1: the caller sees to it)."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("the array is lent as it is: no copy, no other device")
        if self.stream is not None and stream != -1:
            libcuda.order(self.stream, libcuda.LEGACY_STREAM if stream is None else stream)
        # The array itself is the owner: it keeps its own alive.
        tensor = dlpack.Bytes(
            self.address, self.shape, self.strides, self.__dlpack_device__(), self.readonly, owner=self
        )
        return dlpack.export(tensor, versioned=max_version is not None and max_version[0] >= 1)


def _from_dlpack(thing: Any) -> DeviceArray:
    if thing.__dlpack_device__()[0] not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
        raise UsageError(f"this {type(thing).__name__} is not in a GPU's memory", "hand over a NumPy array instead")
    try:
        # The producer orders its work before the legacy default stream, and so will ``prepare``.
        capsule = thing.__dlpack__(stream=libcuda.LEGACY_STREAM, max_version=(1, 0))
    except TypeError:  # a producer from before DLPack 1
        capsule = thing.__dlpack__(stream=libcuda.LEGACY_STREAM)
    found = dlpack.consume(capsule)
    stream = libcuda.LEGACY_STREAM
    return DeviceArray(found.address, found.shape, found.strides, found.owner, found.device[1], stream, found.readonly)


def _from_interface(thing: object, interface: dict[str, Any]) -> DeviceArray:
    if interface["typestr"] != "|u1":
        raise UsageError(f"a frame's planes are uint8, not {interface['typestr']}", "convert the array")
    if interface.get("mask") is not None:
        raise UsageError("a masked array is not a frame", "")
    address, readonly = interface["data"]
    shape = tuple(interface["shape"])
    strides = tuple(interface.get("strides") or dlpack.compact(shape))
    if len(strides) != len(shape):
        raise UsageError(f"strides {strides} do not fit the shape {shape}", "")
    # Version 3 says None where nothing is under way. Earlier ones say nothing: most work on the legacy default stream,
    # which also waits for all ordinary streams.
    stream = interface.get("stream", libcuda.LEGACY_STREAM if interface["version"] < 3 else None)
    if stream == 0:
        raise UsageError("__cuda_array_interface__ names stream 0, which its version 3 forbids", "1, 2 or a handle")
    if stream == libcuda.PER_THREAD_STREAM:
        # Its meaning changes with the thread, and this is the producer's.
        libcuda.synchronize(stream)
        stream = None
    return DeviceArray(int(address or 0), shape, strides, thing, None, stream, bool(readonly))
