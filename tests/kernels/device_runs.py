# SPDX-License-Identifier: Apache-2.0
"""Runs the CUDA kernels on frames and arrays, by way of a machine's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from cases import Case, Tensor
from machines import Machine, Memory

from crispstream.frame import Frame
from crispstream.kernels.device import FINDINGS_BYTES, JOB_BYTES, Jobs, make_image, make_job
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Findings, Image, Job, Mix, Sizes

CANARY = 0xA5


def sizes_of(geometry: Geometry, dtype: Any) -> Sizes:
    half = int(np.dtype(dtype) == np.float16)
    return Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, half)


class Picture:
    """A frame in device memory: aligned to 8 bytes, or with the frame's own strides, ending anywhere."""

    def __init__(self, machine: Machine, frame: Frame, aligned: bool) -> None:
        self.frame = frame
        self._rows = [(plane.shape[0], math.prod(plane.shape[1:])) for plane in frame.planes]
        self._strides = [
            -(-row // 8) * 8 if aligned else max(plane.strides[0], row)
            for plane, (_, row) in zip(frame.planes, self._rows, strict=True)
        ]
        self._memory: list[Memory] = []
        for plane, stride, (height, row) in zip(frame.planes, self._strides, self._rows, strict=True):
            memory = machine.allocate(stride * (height - 1) + row, 8 if aligned else 1)
            data = np.full((height, stride), CANARY, np.uint8)
            data[:, :row] = plane.reshape(height, row)
            memory.write(data.reshape(-1)[: stride * (height - 1) + row])
            self._memory.append(memory)

    @property
    def image(self) -> Image:
        frame, addresses = self.frame, [memory.address for memory in self._memory]
        return make_image(frame.format, (frame.width, frame.height), frame.color, addresses, self._strides)

    def read(self) -> Frame:
        """The frame as it is now; what lies between its rows must not have changed."""
        planes = []
        for plane, memory, stride, (height, row) in zip(
            self.frame.planes, self._memory, self._strides, self._rows, strict=True
        ):
            data = np.full(stride * height, CANARY, np.uint8)
            data[: stride * (height - 1) + row] = memory.read()
            assert np.all(data.reshape(height, stride)[:, row:] == CANARY)
            planes.append(data.reshape(height, stride)[:, :row].reshape(plane.shape).copy())
        return Frame(tuple(planes), self.frame.format, self.frame.color)


def upload(machine: Machine, tensors: Sequence[Tensor]) -> Memory:
    """A batch of tensors in device memory."""
    data = np.frombuffer(b"".join(tensor.tobytes() for tensor in tensors), np.uint8)
    memory = machine.allocate(data.nbytes, 16)
    memory.write(data)
    return memory


class JobList:
    """Jobs on the host, and a copy of them on the device."""

    def __init__(self, machine: Machine, jobs: Sequence[Job]) -> None:
        self.host: Jobs = (Job * len(jobs))(*jobs)
        self.batch = len(jobs)
        self._memory = machine.allocate(JOB_BYTES * len(jobs), 8)
        self.address = self._memory.address
        self.rewrite(jobs)

    def rewrite(self, jobs: Sequence[Job]) -> None:
        """Change the device's copy alone."""
        self._memory.write(np.frombuffer(b"".join(bytes(job) for job in jobs), np.uint8))


class FindingsList:
    """Findings of a batch in device memory."""

    def __init__(self, machine: Machine, batch: int) -> None:
        self.batch = batch
        self._memory = machine.allocate(FINDINGS_BYTES * batch, 16)
        self.address = self._memory.address
        self._memory.write(np.zeros(FINDINGS_BYTES * batch, np.uint8))

    def write(self, value: Findings) -> None:
        self._memory.write(np.frombuffer(bytes(value) * self.batch, np.uint8))

    def read(self) -> list[Findings]:
        return list((Findings * self.batch).from_buffer_copy(self._memory.read()))


def unpack(machine: Machine, frames: Sequence[Frame], geometry: Geometry, dtype: Any, aligned: bool) -> Tensor:
    """The packed tensors of a batch of frames."""
    pictures = [Picture(machine, frame, aligned) for frame in frames]
    jobs = JobList(machine, [make_job(picture.image) for picture in pictures])
    shape = (jobs.batch, *geometry.packed_shape[1:])
    packed = upload(machine, [np.full(shape, -1, dtype)])
    sizes = sizes_of(geometry, dtype)
    machine.call(machine.kernels.unpack, jobs.host, jobs.address, jobs.batch, sizes, packed.address, machine.stream)
    machine.synchronize()
    return packed.read().view(dtype).reshape(shape)


def mix_of(case: Case) -> Mix:
    return Mix(case.options.get("strength", 1), case.options.get("mask_gain", 1), case.options.get("mask_bias", 0))


def blend(
    machine: Machine, cases: Sequence[Case], aligned: bool, in_place: bool = False
) -> tuple[list[Frame], list[int]]:
    """The blended frames of a batch, and how many values were dropped in each."""
    first, batch = cases[0], len(cases)
    sources = [Picture(machine, case.frame, aligned) for case in cases]
    outs = sources if in_place else [Picture(machine, case.out, aligned) for case in cases]
    jobs = JobList(
        machine,
        [make_job(s.image, o.image, mix_of(case)) for s, o, case in zip(sources, outs, cases, strict=True)],
    )
    head = upload(machine, [case.head for case in cases])
    branches = [
        upload(machine, [getattr(case, name) for case in cases]) if getattr(first, name) is not None else None
        for name in ("foreground", "background")
    ]
    findings = FindingsList(machine, batch)
    sizes = sizes_of(first.geometry, first.head.dtype)
    addresses = [head.address, *(branch.address if branch else None for branch in branches), findings.address]
    machine.call(machine.kernels.blend, jobs.host, jobs.address, batch, sizes, *addresses, machine.stream)
    machine.synchronize()
    return [out.read() for out in outs], [found.non_finite for found in findings.read()]


def statistics(machine: Machine, geometry: Geometry, heads: Tensor) -> list[Findings]:
    """The findings of a batch of heads; they are garbage before."""
    findings = FindingsList(machine, len(heads))
    findings.write(Findings(9, 9, 9))
    memory = upload(machine, [heads])
    sizes = sizes_of(geometry, heads.dtype)
    machine.call(machine.kernels.statistics, sizes, len(heads), memory.address, findings.address, machine.stream)
    machine.synchronize()
    return findings.read()
