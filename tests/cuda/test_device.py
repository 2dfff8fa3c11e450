# SPDX-License-Identifier: Apache-2.0
"""Streams, events, memory and copies on an emulated GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from emulation.fake_pycuda import FakeGpu, Machine
from emulation.fixture import EmulatedGpu

from crispstream.cuda.device import Device
from crispstream.cuda.worker import Worker
from crispstream.errors import EngineError


@pytest.fixture
def machine(emulated_gpu: EmulatedGpu) -> Machine:
    return emulated_gpu(FakeGpu(memory=1 << 20))


@pytest.fixture
def worker(machine: Machine) -> Iterator[Worker]:
    worker = Worker(0)
    yield worker
    worker.close()


def test_round_trip_of_pinned_memory(worker: Worker, machine: Machine) -> None:
    def round_trip(device: Device) -> np.ndarray:
        stream, there, back = device.stream(), device.stream(), device.event()
        source, result = device.pin(5000), device.pin(5000)
        first, second = device.allocate(5000), device.allocate(5000)
        source.array[:] = np.arange(5000) % 251
        device.copy_in(first.address, source.array, stream)
        device.copy_within(second.address, first.address, 5000, stream)
        device.zero(second.address + 100, 50, stream)
        back.record(stream)
        there.wait(back)
        device.copy_out(result.array, second.address, there)
        there.synchronize()
        assert back.done()
        return result.array

    expected = (np.arange(5000) % 251).astype(np.uint8)
    expected[100:150] = 0
    assert np.array_equal(worker.call(round_trip, worker.device), expected)
    assert not machine.pageable


def test_pageable_memory_is_taken_too(worker: Worker, machine: Machine) -> None:
    def round_trip(device: Device) -> np.ndarray:
        stream, memory = device.stream(), device.allocate(300)
        source = np.arange(300).astype(np.uint8)
        device.copy_in(memory.address, source, stream)
        result = np.empty(300, np.uint8)
        device.copy_out(result, memory.address, stream)
        return result

    assert np.array_equal(worker.call(round_trip, worker.device), np.arange(300).astype(np.uint8))
    assert machine.pageable == ["memcpy_htod_async", "memcpy_dtoh_async"]


def test_copies_want_contiguous_arrays(worker: Worker) -> None:
    def copy(device: Device) -> None:
        device.copy_in(device.allocate(100).address, np.zeros((10, 10), np.uint8)[:, ::2], device.stream())

    with pytest.raises(ValueError, match="contiguous"):
        worker.call(copy, worker.device)


def test_pinned_memory(worker: Worker, machine: Machine) -> None:
    pinned = worker.call(worker.device.pin, 10_000)
    assert pinned.array.shape == (10_000,) and pinned.array.dtype == np.uint8 and not pinned.array.any()
    assert pinned.array.ctypes.data % 4096 == 0 and pinned.array.flags.writeable
    assert pinned.device_address is None and len(machine.registered) == 1
    array = pinned.array
    worker.close()
    assert not machine.registered
    array[:] = 7  # a caller keeps a frame longer than the engine lives
    assert array.sum() == 70_000


def test_pinned_memory_is_given_back_with_its_last_array(worker: Worker) -> None:
    pinned = worker.call(worker.device.pin, 100)
    gone = weakref.ref(pinned.array.base.obj)
    worker.call(pinned.free)
    worker.call(pinned.free)
    worker.call(int)  # its thread lets go of a call just after it has handed the result over
    view = pinned.array[10:]
    del pinned
    assert gone() is not None
    del view
    assert gone() is None


def test_an_integrated_gpu_maps_pinned_memory(emulated_gpu: EmulatedGpu) -> None:
    emulated_gpu(FakeGpu(integrated=True))
    worker = Worker(0)
    pinned = worker.call(worker.device.pin, 4096)
    assert pinned.device_address == pinned.array.ctypes.data  # the emulation has one address space
    worker.close()


def test_gpu_memory_is_full(worker: Worker, machine: Machine) -> None:
    worker.call(worker.device.allocate, 600_000)
    with pytest.raises(
        EngineError, match=r"1\.0 MiB of GPU memory cannot be had: 0\.4 MiB of 1\.0 MiB are free"
    ) as caught:
        worker.call(worker.device.allocate, 1 << 20)
    assert "smaller frame" in caught.value.hint
    free, total = worker.call(worker.device.memory)
    assert total == 1 << 20 and 400_000 < free < 450_000


def test_memory_is_freed_once_and_counted(worker: Worker, machine: Machine) -> None:
    memory = worker.call(worker.device.allocate, 1000)
    assert memory.nbytes == 1000 and memory.address % 256 == 0 and machine.leaks()["allocation"] == 1
    for _ in range(2):
        worker.call(memory.free)
        assert "allocation" not in machine.leaks()


def test_what_was_made_last_goes_first(worker: Worker) -> None:
    order: list[str] = []

    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            order.append(self.name)

    things = [Thing(name) for name in ("stream", "event", "buffer")]
    for thing in things:
        worker.call(worker.device.own, thing)
    worker.call(worker.device.disown, things[1])
    worker.close()
    assert order == ["buffer", "stream"]


def test_times(worker: Worker) -> None:
    def measure(device: Device) -> float:
        stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
        start.record(stream)
        end.record(stream)
        end.synchronize()
        return end.milliseconds_since(start)

    assert worker.call(measure, worker.device) >= 0
    with pytest.raises(EngineError, match="cuEventElapsedTime"):
        worker.call(lambda device: device.event().milliseconds_since(device.event()), worker.device)


def test_streams_and_events_end_when_closed(worker: Worker, machine: Machine) -> None:
    stream, event = worker.call(worker.device.stream), worker.call(worker.device.event)
    assert (machine.leaks()["stream"], machine.leaks()["event"]) == (1, 1)
    for _ in range(2):
        worker.call(event.close)
        worker.call(stream.close)
    assert {"stream", "event"}.isdisjoint(machine.leaks())


def test_an_error_takes_no_pycuda_object_to_another_thread(worker: Worker, machine: Machine) -> None:
    """The caller keeps the exception; the stream that failed must still be freed, in the worker's thread."""
    stream = worker.call(worker.device.stream)
    machine.broken = True
    with pytest.raises(EngineError, match="launch failure") as caught:
        worker.call(stream.synchronize)
    machine.broken = False
    worker.call(stream.close)
    assert "stream" not in machine.leaks(), "the exception keeps the stream alive"
    assert caught.value.__traceback__ is not None


def test_closing_after_a_crash(worker: Worker, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Every call fails by then; the context is released all the same, and the program goes on."""
    worker.call(lambda device: (device.stream(), device.allocate(10), device.pin(10)), worker.device)
    machine.broken = True
    worker.close()
    machine.broken = False
    assert not machine.leaks() and "launch failure" in caplog.text


def test_another_librarys_stream(worker: Worker, machine: Machine) -> None:
    """What its stream writes, late, is seen by what comes after ``follow``."""
    library = machine.library
    foreign = library.emu_stream_create()
    source = np.full(64, 9, np.uint8)

    def read(device: Device) -> np.ndarray:
        memory, stream, result = device.allocate(64), device.stream(), device.pin(64)
        library.emu_copy(memory.address, source.ctypes.data, 64, foreign)
        stream.follow(foreign)
        device.copy_out(result.array, memory.address, stream)
        stream.synchronize()
        return result.array

    assert (worker.call(read, worker.device) == 9).all()
    library.emu_stream_destroy(foreign)


def test_making_things_elsewhere_with_a_context_of_ones_own(worker: Worker, machine: Machine) -> None:
    """PyTorch's threads have the same primary context: pycuda would not notice, and leak."""
    import sys

    drv = sys.modules["pycuda.driver"]
    context = drv.Device(0).retain_primary_context()
    context.push()
    with pytest.raises(RuntimeError, match="worker's thread"):
        worker.device.stream()
    drv.Context.pop()
    context.detach()
    assert threading.current_thread() is threading.main_thread()
