# SPDX-License-Identifier: Apache-2.0
"""The pixel kernels on a GPU beside a copy of equal bytes on the same card."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any

import numpy as np

from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.stream import Stream
from crispstream.frame import ColorSpec, PixelFormat
from crispstream.kernels.device import FINDINGS_BYTES, JOB_BYTES, make_image
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Job, Mix, Sizes
from crispstream.model.presets import PRESETS
from crispstream.runners.layout import FrameLayout

NODES = 100
REPLAYS = 20
ROTATED_BYTES = 512 * 2**20
"""Buffers take turns over at least so many bytes: four times the largest L2 cache of any GPU so far (126 MiB)."""
HALF = 2
ALIGNMENT = 256


def card(device: Device) -> dict[str, Any]:
    """What the figures belong to, and how fast its memory is: bytes read and written by copies of 64 MiB."""
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--id={device.index}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    stream, nbytes = device.stream(), ROTATED_BYTES // 8
    copy = _copy_seconds(device, stream, nbytes)
    stream.close()
    return {
        "name": device.name,
        "compute_capability": list(device.compute_capability),
        "multiprocessors": device.multiprocessors,
        "driver": device.driver_version,
        "memory": device.memory()[1],
        "copy_gb_per_s": 2 * nbytes / copy / 1e9,
        "nvidia_smi": {"query": query, "answer": said},
    }


def kernel_figures(device: Device, size: tuple[int, int], pixel_format: PixelFormat) -> dict[str, dict[str, float]]:
    """Microseconds, bytes and the fraction of a copy's rate of unpack, blend and statistics, nano's geometry, FP16.

    Each as nodes of one graph, which rotate over ROTATED_BYTES, as the nodes of the copy do. ``bytes``: what must be
    read and written once. In a frame the head is small and still in the cache; here the statistics read it from memory.
    """
    preset = PRESETS["nano"]
    geometry = Geometry.for_size(*size, pack=preset.pack, multiple=preset.multiple, map_stride=preset.map_stride)
    sizes = Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, 1)
    layout = FrameLayout(pixel_format, *size, ColorSpec())
    frame = sum(int(np.prod(shape)) for shape in layout.shapes)
    packed, head = (HALF * int(np.prod(shape)) for shape in (geometry.packed_shape, geometry.head_shape))
    kernels, stream = device.kernels, device.stream()

    def unpack(job: Job, job_address: int, packed: int) -> None:
        kernels.unpack(job, job_address, 1, sizes, packed, stream.handle)

    def blend(job: Job, job_address: int, head: int, foreground: int, background: int, findings: int) -> None:
        kernels.blend(job, job_address, 1, sizes, head, foreground, background, findings, stream.handle)

    def statistics(_: Job, __: int, head: int, findings: int) -> None:
        kernels.statistics(sizes, 1, head, findings, stream.handle)

    runs: dict[str, tuple[Callable[..., None], int, int, tuple[int, ...]]] = {  # bytes, frames, sizes of tensors
        "unpack": (unpack, frame + packed, 1, (packed,)),
        "blend": (blend, 2 * frame + 2 * packed + head, 2, (head, packed, packed, FINDINGS_BYTES)),
        "statistics": (statistics, head, 0, (head, FINDINGS_BYTES)),
    }
    found = {}
    for name, (kernel, nbytes, frames, tensors) in runs.items():
        with _rotation(device, stream, nbytes, (*[layout.nbytes] * frames, *tensors, JOB_BYTES)) as sets:
            nodes = []
            for *addresses, job_address in sets:
                images = (
                    make_image(pixel_format, size, layout.color, layout.addresses(address), layout.strides)
                    for address in addresses[:frames]
                )
                job = Job(*images, mix=Mix(1, 1, 0))
                device.copy_in(job_address, np.frombuffer(job, np.uint8), stream)
                nodes.append(partial(kernel, job, job_address, *addresses[frames:]))
            seconds = _node_seconds(device, stream, nodes)
        copy = _copy_seconds(device, stream, nbytes // 2)
        figures = {"us": 1e6 * seconds, "bytes": nbytes, "gb_per_s": nbytes / seconds / 1e9}
        found[name] = figures | {"copy_gb_per_s": nbytes / copy / 1e9, "of_copy": copy / seconds}
    stream.close()
    return found


def _copy_seconds(device: Device, stream: Stream, nbytes: int) -> float:
    """Of one copy of ``nbytes`` from device memory to device memory."""
    with _rotation(device, stream, 2 * nbytes, (nbytes, nbytes)) as sets:
        nodes = [partial(device.copy_within, target, source, nbytes, stream) for source, target in sets]
        return _node_seconds(device, stream, nodes)


@contextmanager
def _rotation(device: Device, stream: Stream, nbytes: int, sizes: Sequence[int]) -> Iterator[list[list[int]]]:
    """Addresses of sets of zeroed buffers, ``sizes`` bytes each, in device memory; two sets at least.

    ``nbytes``: what is read and written of a set, so that all sets together make ROTATED_BYTES of traffic.
    """
    *offsets, step = accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0)
    count = max(2, -(-ROTATED_BYTES // nbytes))
    memory = device.allocate(count * step)
    try:
        device.zero(memory.address, memory.nbytes, stream)
        stream.synchronize()
        yield [[memory.address + i * step + offset for offset in offsets] for i in range(count)]
    finally:
        stream.synchronize()
        memory.free()


def _node_seconds(device: Device, stream: Stream, nodes: Sequence[Callable[[], None]]) -> float:
    """Time of one node of a graph which goes through ``nodes`` once, and on until it has NODES; median of REPLAYS."""
    for node in nodes:
        node()
    stream.synchronize()
    count = max(NODES, len(nodes))

    def all_nodes() -> None:
        for i in range(count):
            nodes[i % len(nodes)]()

    graph = record(device.kernels, stream.handle, all_nodes)
    start, end = device.event(timing=True), device.event(timing=True)
    times = []
    try:
        for _ in range(REPLAYS + 2):
            start.record(stream)
            graph.launch(stream.handle)
            end.record(stream)
            end.synchronize()
            times.append(end.milliseconds_since(start))
    finally:
        graph.close()
        start.close()
        end.close()
    return median(times[2:]) / 1000 / count
