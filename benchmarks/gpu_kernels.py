# SPDX-License-Identifier: Apache-2.0
"""The pixel kernels on a GPU beside a copy of equal bytes on the same card."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from crispstream.cuda.device import Device
from crispstream.cuda.graph import record
from crispstream.cuda.memory import Buffer
from crispstream.cuda.stream import Stream
from crispstream.frame import ColorSpec, PixelFormat
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Mix, Sizes
from crispstream.model.presets import PRESETS
from crispstream.runners.layout import FrameLayout
from crispstream.runners.slot import Slot

NODES = 100
REPLAYS = 20
ROTATED_BYTES = 512 * 2**20
"""Buffers take turns over at least so many bytes: four times the largest L2 cache of any GPU so far (126 MiB)."""
HALF = 2


def card(device: Device) -> dict[str, Any]:
    """What the figures belong to."""
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--id={device.index}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    return {
        "name": device.name,
        "compute_capability": list(device.compute_capability),
        "multiprocessors": device.multiprocessors,
        "driver": device.driver_version,
        "memory": device.memory()[1],
        "nvidia_smi": {"query": query, "answer": said},
    }


def kernel_figures(device: Device, size: tuple[int, int], pixel_format: PixelFormat) -> dict[str, dict[str, float]]:
    """Microseconds, bytes and the fraction of a copy's rate of unpack and blend, nano's geometry, FP16.

    Each as NODES nodes of a graph, buffers rotating over ROTATED_BYTES. Bytes: what must be read and written once.
    """
    preset = PRESETS["nano"]
    geometry = Geometry.for_size(*size, pack=preset.pack, multiple=preset.multiple, map_stride=preset.map_stride)
    sizes = Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, 1)
    layout = FrameLayout(pixel_format, *size, ColorSpec())
    stream = device.stream()
    frame_bytes = sum(int(np.prod(shape)) for shape in layout.shapes)
    packed_bytes = HALF * int(np.prod(geometry.packed_shape))
    head_bytes = HALF * int(np.prod(geometry.head_shape))
    work = {"unpack": frame_bytes + packed_bytes, "blend": 2 * frame_bytes + 2 * packed_bytes + head_bytes}
    sets = max(2, -(-ROTATED_BYTES // (2 * layout.nbytes + 3 * packed_bytes)))
    slots = [Slot(i, device, layout) for i in range(sets)]
    tensors = [[device.allocate(n) for n in (packed_bytes, packed_bytes, packed_bytes, head_bytes)] for _ in slots]
    try:
        for slot, buffers in zip(slots, tensors, strict=True):
            for buffer in buffers:
                device.zero(buffer.address, buffer.nbytes, stream)
            slot.post(slot.send(None, stream), slot.destination(None), Mix(1, 1, 0), stream)

        def unpack(i: int) -> None:
            device.kernels.unpack(slots[i].job, slots[i].job_address, 1, sizes, tensors[i][0].address, stream.handle)

        def blend(i: int) -> None:
            _, foreground, background, head = (buffer.address for buffer in tensors[i])
            where = slots[i].job, slots[i].job_address, 1, sizes
            device.kernels.blend(*where, head, foreground, background, slots[i].findings_address, stream.handle)

        found = {}
        for name, kernel in (("unpack", unpack), ("blend", blend)):
            seconds = _node_seconds(device, stream, kernel, sets)
            copy = _copy_seconds(device, stream, work[name] // 2)
            figures = {"us": 1e6 * seconds, "bytes": work[name], "gb_per_s": work[name] / seconds / 1e9}
            found[name] = figures | {"copy_gb_per_s": work[name] / copy / 1e9, "of_copy": copy / seconds}
        return found
    finally:
        stream.synchronize()
        for slot in slots:
            slot.close()
        for buffer in (buffer for buffers in tensors for buffer in buffers):
            buffer.free()
        stream.close()


def _copy_seconds(device: Device, stream: Stream, nbytes: int) -> float:
    """Of one copy of ``nbytes`` from device memory to device memory."""
    pairs = max(2, -(-ROTATED_BYTES // (2 * nbytes)))
    buffers: list[Buffer] = [device.allocate(nbytes) for _ in range(2 * pairs)]
    try:
        for buffer in buffers:
            device.zero(buffer.address, nbytes, stream)

        def copy(i: int) -> None:
            device.copy_within(buffers[2 * i + 1].address, buffers[2 * i].address, nbytes, stream)

        return _node_seconds(device, stream, copy, pairs)
    finally:
        stream.synchronize()
        for buffer in buffers:
            buffer.free()


def _node_seconds(device: Device, stream: Stream, node: Callable[[int], None], sets: int) -> float:
    """Time of one of NODES nodes of a graph, which take the sets of buffers in turn; median of REPLAYS."""
    for i in range(sets):
        node(i)
    stream.synchronize()

    def all_nodes() -> None:
        for i in range(NODES):
            node(i % sets)

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
    return median(times[2:]) / 1000 / NODES
