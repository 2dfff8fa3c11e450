# SPDX-License-Identifier: Apache-2.0
"""Recording and launching graphs on an emulated GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from emulation.fixture import EmulatedGpu

from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.worker import Worker
from crispstream.kernels import bindings
from crispstream.kernels.device import FINDINGS_BYTES
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Findings, Sizes


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
    """It reads what lies in the head when it is launched, not when it was recorded."""
    geometry = Geometry.for_size(64, 48, pack=4, multiple=16, map_stride=8)
    sizes = Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, 1)
    heads = np.random.default_rng(0).random((3, *geometry.head_shape)).astype(np.float16)

    def use(device: Device) -> list[tuple[float, float]]:
        stream, head, found = device.stream(), device.allocate(heads[0].nbytes), device.allocate(FINDINGS_BYTES)
        result = device.pin(FINDINGS_BYTES)

        def work() -> None:
            device.kernels.statistics(sizes, 1, head.address, found.address, stream.handle)

        work()
        stream.synchronize()
        graph = record(device.kernels, stream.handle, work)
        pairs = []
        for values in heads:
            device.copy_in(head.address, values, stream)
            graph.launch(stream.handle)
            device.copy_out(result.array, found.address, stream)
            stream.synchronize()
            findings = Findings.from_buffer(result.array)
            pairs.append((findings.people, findings.rest))
        graph.close()
        return pairs

    assert worker.call(use, worker.device) == [bindings.statistics(geometry, head) for head in heads]
