# SPDX-License-Identifier: Apache-2.0
"""The statistics kernel as a graph, on whatever GPU the worker has: emulated or real."""

from __future__ import annotations

import numpy as np

from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.worker import Worker
from crispstream.kernels import bindings
from crispstream.kernels.device import FINDINGS_BYTES
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Findings, Sizes


def check_statistics_graph(worker: Worker, geometry: Geometry) -> None:
    """A graph reads what lies in the head when it is launched, not when it was recorded."""
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
