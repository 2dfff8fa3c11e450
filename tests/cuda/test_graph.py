# SPDX-License-Identifier: Apache-2.0
"""Recording and launching graphs on an emulated GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from emulation.fixture import EmulatedGpu
from statistics_graph import check_statistics_graph

from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.worker import Worker
from crispstream.kernels.geometry import Geometry


@pytest.fixture
def worker(emulated_gpu: EmulatedGpu) -> Iterator[Worker]:
    emulated_gpu()
    worker = Worker(0)
    yield worker
    worker.close()


def test_recorded_work_runs_when_launched(worker: Worker) -> None:
    def use(device: Device) -> list[int]:
        stream, memory, pinned = device.stream(), device.allocate(100), device.pin(100)
        device.zero(memory.address, 100, stream)
        ones = device.pin(100)
        ones.array[:] = 1
        graph = record(device.kernels, stream.handle, lambda: device.copy_in(memory.address, ones.array, stream))
        sums = []
        for value in (None, 1, 2, 3):
            if value is not None:
                ones.array[:] = value
                graph.launch(stream.handle)
            device.copy_out(pinned.array, memory.address, stream)
            stream.synchronize()
            sums.append(int(pinned.array.sum()))
        graph.close()
        graph.close()
        return sums

    assert worker.call(use, worker.device) == [0, 100, 200, 300]


def test_a_recording_that_fails_ends(worker: Worker) -> None:
    """The stream works again afterwards, nothing of the recording runs, and the collector is on."""

    def use(device: Device) -> int:
        stream, memory, pinned = device.stream(), device.allocate(100), device.pin(100)
        pinned.array[:] = 1

        def broken() -> None:
            device.copy_in(memory.address, pinned.array, stream)
            assert not gc.isenabled()
            raise KeyError("what the caller did wrong")

        device.zero(memory.address, 100, stream)
        with pytest.raises(KeyError, match="caller did wrong"):
            record(device.kernels, stream.handle, broken)
        assert gc.isenabled()
        result = device.pin(100)
        device.copy_out(result.array, memory.address, stream)
        stream.synchronize()
        record(device.kernels, stream.handle, lambda: device.zero(memory.address, 100, stream)).close()
        return int(result.array.sum())

    assert worker.call(use, worker.device) == 0


def test_the_collector_stays_as_it_was(worker: Worker) -> None:
    stream = worker.call(worker.device.stream)
    gc.disable()
    try:
        worker.call(record, worker.device.kernels, stream.handle, lambda: None).close()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_graph_of_the_statistics_kernel(worker: Worker) -> None:
    check_statistics_graph(worker, Geometry.for_size(64, 48, pack=2, multiple=16, map_stride=8))
