# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries in an emulated GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from emulation.fake_pycuda import FakeGpu, Machine
from emulation.fixture import EmulatedGpu

from crispstream.cuda import dlpack
from crispstream.cuda.interop import DeviceArray
from crispstream.cuda.libcuda import LEGACY_STREAM, PER_THREAD_STREAM
from crispstream.cuda.memory import Buffer
from crispstream.cuda.worker import Worker
from crispstream.errors import EngineError, UsageError


@pytest.fixture
def machine(emulated_gpu: EmulatedGpu) -> Machine:
    return emulated_gpu(FakeGpu(), FakeGpu())


@pytest.fixture
def worker(machine: Machine) -> Iterator[Worker]:
    worker = Worker(0)
    yield worker
    worker.close()


@pytest.fixture
def memory(worker: Worker) -> Buffer:
    return worker.call(worker.device.allocate, 4096)


def array(address: int = 4096, **fields: Any) -> SimpleNamespace:
    """An object with ``__cuda_array_interface__``, version 3, of a 4 x 5 x 3 frame."""
    interface = {"shape": (4, 5, 3), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3}
    return SimpleNamespace(__cuda_array_interface__={**interface, "stream": None, **fields})


class Producer:
    """Something with ``__dlpack__`` whose memory is, so it says, GPU 0's."""

    def __init__(self, address: int, modern: bool = True) -> None:
        self.address, self.modern = address, modern
        self.asked: dict[str, Any] = {}

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0

    def __dlpack__(self, **asked: Any) -> object:
        if not self.modern and "max_version" in asked:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked = asked
        return dlpack.export(
            dlpack.Bytes(self.address, (4, 5, 3), (20, 3, 1), (dlpack.CUDA, 0), False, self), versioned=self.modern
        )


def test_cuda_array_interface() -> None:
    owner = array()
    found = DeviceArray.wrap(owner)
    assert (found.address, found.shape, found.strides, found.owner) == (4096, (4, 5, 3), (15, 3, 1), owner)
    assert (found.device, found.stream, found.readonly) == (None, None, False)
    assert DeviceArray.wrap(found) is found and DeviceArray.offered_by(owner)
    padded = DeviceArray.wrap(array(strides=(32, 3, 1), data=(64, True), stream=7777))
    assert (padded.strides, padded.readonly, padded.stream) == ((32, 3, 1), True, 7777)
    again = DeviceArray.wrap(SimpleNamespace(__cuda_array_interface__=padded.__cuda_array_interface__))
    assert (again.address, again.strides, again.readonly, again.stream) == (64, (32, 3, 1), True, 7777)


def test_versions_before_streams_wait_for_the_default_stream() -> None:
    thing = array(version=2)
    del thing.__cuda_array_interface__["stream"]
    assert DeviceArray.wrap(thing).stream == LEGACY_STREAM


@pytest.mark.usefixtures("machine")
def test_the_per_thread_stream_is_waited_for_at_once() -> None:
    """It means another stream in the worker's thread."""
    assert DeviceArray.wrap(array(stream=PER_THREAD_STREAM)).stream is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"typestr": "<f4"}, "uint8, not <f4"),
        ({"mask": object()}, "masked"),
        ({"strides": (3, 1)}, "do not fit"),
        ({"stream": 0}, "stream 0"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeviceArray.wrap(array(**fields))


def test_what_is_not_in_a_gpus_memory() -> None:
    with pytest.raises(UsageError, match="list has neither"):
        DeviceArray.wrap([1, 2])
    for thing in (np.zeros(3, np.uint8), torch.zeros(3, dtype=torch.uint8)):
        assert not DeviceArray.offered_by(thing)
        with pytest.raises(UsageError, match="not in a GPU's memory"):
            DeviceArray.wrap(thing)


@pytest.mark.parametrize("modern", [True, False])
def test_dlpack_in(modern: bool) -> None:
    producer = Producer(4096, modern)
    assert DeviceArray.offered_by(producer)
    found = DeviceArray.wrap(producer)
    assert (found.address, found.shape, found.strides, found.device) == (4096, (4, 5, 3), (20, 3, 1), 0)
    assert producer.asked["stream"] == found.stream == LEGACY_STREAM
    assert len(dlpack._exported) == 1
    del found
    assert not dlpack._exported


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_dlpack_out(version: tuple[int, int] | None) -> None:
    mine = DeviceArray(4096, (4, 5, 3), (20, 3, 1), owner=object(), device=1)
    assert mine.__dlpack_device__() == (dlpack.CUDA, 1)
    back = dlpack.consume(mine.__dlpack__(stream=1, max_version=version))
    assert (back.address, back.shape, back.strides, back.device) == (4096, (4, 5, 3), (20, 3, 1), (dlpack.CUDA, 1))
    with pytest.raises(BufferError, match="lent as it is"):
        mine.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="lent as it is"):
        mine.__dlpack__(dl_device=(dlpack.CPU, 0))
    with pytest.raises(BufferError, match="not known"):
        DeviceArray(4096, (1,), (1,), None).__dlpack__()


def test_work_waits_for_the_producer(worker: Worker, machine: Machine, memory: Buffer) -> None:
    """The producer's write is under way when its array arrives; our copy comes after it all the same."""
    library, device = machine.library, worker.device
    theirs = library.emu_stream_create()
    values = np.arange(60).astype(np.uint8)
    library.emu_copy(memory.address, values.ctypes.data, 60, theirs)
    frame = DeviceArray.wrap(array(memory.address, stream=theirs))

    def read() -> np.ndarray:
        stream, result = device.stream(), device.pin(60)
        frame.prepare(device, stream)
        device.copy_out(result.array, frame.address, stream)
        stream.synchronize()
        return result.array

    assert np.array_equal(worker.call(read), values)
    library.emu_stream_destroy(theirs)


def test_memory_of_another_gpu_or_none(worker: Worker, memory: Buffer) -> None:
    other = Worker(1)
    stream = worker.call(worker.device.stream)
    elsewhere = other.call(other.device.allocate, 100)
    with pytest.raises(UsageError, match="of cuda:1, the engine runs on cuda:0"):
        worker.call(DeviceArray.wrap(array(elsewhere.address)).prepare, worker.device, stream)
    host = np.zeros(100, np.uint8)
    with pytest.raises(UsageError, match="unknown to CUDA"):
        worker.call(DeviceArray.wrap(array(host.ctypes.data)).prepare, worker.device, stream)
    other.close()


def test_read_only_outputs(worker: Worker, memory: Buffer) -> None:
    stream = worker.call(worker.device.stream)
    frame = DeviceArray.wrap(array(memory.address, data=(memory.address, True)))
    worker.call(frame.prepare, worker.device, stream)
    with pytest.raises(UsageError, match="read-only"):
        worker.call(frame.prepare, worker.device, stream, write=True)


def test_a_stream_that_is_none(worker: Worker, memory: Buffer) -> None:
    stream = worker.call(worker.device.stream)
    frame = DeviceArray.wrap(array(memory.address, stream=12345678))
    with pytest.raises(EngineError, match="cuEventRecord"):
        worker.call(frame.prepare, worker.device, stream)
