# SPDX-License-Identifier: Apache-2.0
"""The same on a real GPU: ``pytest -m gpu tests/cuda``."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from statistics_graph import check_statistics_graph

from crispstream.cuda import driver
from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.interop import DeviceArray
from crispstream.cuda.worker import Worker
from crispstream.errors import EngineError, UsageError
from crispstream.kernels.geometry import Geometry

pytestmark = pytest.mark.gpu
FRAME = 1920 * 1080 * 3


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if problem := driver.probe().problem:
        pytest.skip(problem)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(0)
    yield worker
    worker.close()


def noise(nbytes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)


def test_open_and_close_a_hundred_times() -> None:
    """The memory of the GPU is what it was; 64 MiB allow for what the driver keeps."""

    def use(device: Device) -> int:
        stream, event = device.stream(), device.event()
        memory, pinned = device.allocate(FRAME), device.pin(FRAME)
        device.copy_in(memory.address, pinned.array, stream)
        event.record(stream)
        return device.memory()[0]

    free = []
    for _ in range(100):
        worker = Worker(0)
        free.append(worker.call(use, worker.device))
        worker.close()
    assert min(free[10:]) > free[9] - 2**26
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("crispstream-gpu")]


@pytest.mark.parametrize("pinned", [True, False])
def test_round_trip(worker: Worker, pinned: bool) -> None:
    def round_trip(device: Device) -> np.ndarray:
        arrive, leave = device.stream(), device.stream()
        arrived = device.event()
        source, result = (device.pin(FRAME).array if pinned else np.empty(FRAME, np.uint8) for _ in range(2))
        source[:] = noise(FRAME)
        first, second = device.allocate(FRAME), device.allocate(FRAME)
        device.copy_in(first.address, source, arrive)
        device.copy_within(second.address, first.address, FRAME, arrive)
        device.zero(second.address + 1000, 1000, arrive)
        arrived.record(arrive)
        leave.wait(arrived)
        device.copy_out(result, second.address, leave)
        leave.synchronize()
        assert arrived.done()
        return result

    expected = noise(FRAME)
    expected[1000:2000] = 0
    assert np.array_equal(worker.call(round_trip, worker.device), expected)


def test_times_and_follow_ups(worker: Worker) -> None:
    finished = threading.Event()

    def use(device: Device) -> float:
        stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
        memory = device.allocate(FRAME)
        start.record(stream)
        for _ in range(20):
            device.zero(memory.address, FRAME, stream)
        end.record(stream)
        worker.when(end, finished.set)
        end.synchronize()
        return end.milliseconds_since(start)

    assert worker.call(use, worker.device) > 0
    assert finished.wait(60)


def test_a_graph_of_the_statistics_kernel(worker: Worker) -> None:
    check_statistics_graph(worker, Geometry.for_size(1280, 720, pack=2, multiple=16, map_stride=8))


def test_a_recording_that_fails_ends(worker: Worker) -> None:
    def use(device: Device) -> int:
        stream, memory, result = device.stream(), device.allocate(100), device.pin(100)

        def broken() -> None:
            device.zero(memory.address, 100, stream)
            raise KeyError("what the caller did wrong")

        with pytest.raises(KeyError):
            record(device.kernels, stream.handle, broken)
        graph = record(device.kernels, stream.handle, lambda: device.zero(memory.address, 100, stream))
        result.array[:] = 1
        device.copy_in(memory.address, result.array, stream)
        graph.launch(stream.handle)
        device.copy_out(result.array, memory.address, stream)
        stream.synchronize()
        graph.close()
        return int(result.array.sum())

    assert worker.call(use, worker.device) == 0


def test_a_graph_spans_streams(worker: Worker) -> None:
    """A branch stream that is forked off and joined by events is recorded with it."""

    def use(device: Device) -> list[int]:
        main, branch = device.stream(), device.stream()
        forked, joined = device.event(), device.event()
        memory, source, result = device.allocate(100), device.allocate(100), device.pin(100)
        result.array[:] = 3
        device.copy_in(source.address, result.array, main)
        main.synchronize()

        def work() -> None:
            forked.record(main)
            branch.wait(forked)
            device.copy_within(memory.address, source.address, 100, branch)
            joined.record(branch)
            main.wait(joined)
            device.zero(memory.address, 50, main)

        graph = record(device.kernels, main.handle, work)
        graph.launch(main.handle)
        device.copy_out(result.array, memory.address, main)
        main.synchronize()
        graph.close()
        return list(result.array)

    assert worker.call(use, worker.device) == [0] * 50 + [3] * 50


def test_mapped_memory(worker: Worker) -> None:
    if not worker.device.integrated:
        pytest.skip("this GPU has its own memory: nothing is mapped")

    def use(device: Device) -> np.ndarray:
        stream, mapped, result = device.stream(), device.pin(10_000), device.pin(10_000)
        assert mapped.device_address is not None and result.device_address is not None
        mapped.array[:] = noise(10_000)
        device.copy_within(result.device_address, mapped.device_address, 10_000, stream)
        stream.synchronize()
        return result.array

    assert np.array_equal(worker.call(use, worker.device), noise(10_000))


def test_pinned_memory_outlives_the_engine() -> None:
    worker = Worker(0)
    array = worker.call(worker.device.pin, FRAME).array
    worker.close()
    array[:] = 1
    assert array.sum() == FRAME


def test_two_workers_in_two_threads() -> None:
    results: list[bool] = []

    def use() -> None:
        worker = Worker(0)

        def copy(device: Device) -> np.ndarray:
            stream, memory, pinned = device.stream(), device.allocate(FRAME), device.pin(FRAME)
            for _ in range(20):
                device.copy_in(memory.address, source, stream)
                device.copy_out(pinned.array, memory.address, stream)
                stream.synchronize()
            return pinned.array

        source = noise(FRAME)
        results.append(np.array_equal(worker.call(copy, worker.device), source))
        worker.close()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [True, True]


def test_more_memory_than_there_is(worker: Worker) -> None:
    _, total = worker.call(worker.device.memory)
    with pytest.raises(EngineError, match="cannot be had"):
        worker.call(worker.device.allocate, 2 * total)
    worker.call(worker.device.allocate, FRAME)


@pytest.mark.parametrize("own_stream", [False, True])
def test_frames_of_pytorch(worker: Worker, own_stream: bool) -> None:
    """In by DLPack while PyTorch is still writing, out by DLPack; nothing is copied."""
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    stream = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()
    with torch.cuda.stream(stream):
        frame = torch.zeros(1080, 1920, 3, dtype=torch.uint8, device="cuda")
        for _ in range(200):
            frame += 1
        taken = DeviceArray.wrap(frame)
    assert taken.address == frame.data_ptr() and taken.shape == (1080, 1920, 3)

    def read(device: Device) -> np.ndarray:
        mine, result = device.stream(), device.pin(FRAME)
        taken.prepare(device, mine)
        device.copy_out(result.array, taken.address, mine)
        mine.synchronize()
        return result.array

    assert (worker.call(read, worker.device) == 200).all()
    back = torch.from_dlpack(DeviceArray(taken.address, taken.shape, taken.strides, taken, device=0))
    assert back.data_ptr() == frame.data_ptr() and torch.equal(back, frame)
    with pytest.raises(UsageError, match="uint8"):
        DeviceArray.wrap(frame.float())
