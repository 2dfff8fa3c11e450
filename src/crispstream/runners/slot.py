# SPDX-License-Identifier: Apache-2.0
"""Memory and events of one frame under way on a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

from crispstream.cuda.device import Device
from crispstream.cuda.stream import Stream
from crispstream.kernels.library import Findings, Image, Job, Mix
from crispstream.runners.layout import FrameLayout
from crispstream.runners.pinned import Block

_FINDINGS_AT = 512
_MAILBOX = 1024


class Planes(NamedTuple):
    """Where a frame lies for the GPU: addresses and bytes from row to row of its planes."""

    addresses: tuple[int, ...]
    strides: tuple[int, ...]


class Slot:
    """One of the frames in flight. Lives in the worker's thread.

    Job and findings share a block of page-locked memory, the mailbox, which is copied both ways: every thread of a
    kernel reads the job, and page-locked memory may not be cached on an integrated GPU. There the frame itself is not
    copied: the GPU works on the page-locked memory.
    """

    def __init__(self, number: int, device: Device, layout: FrameLayout) -> None:
        self.number = number
        self._device, self._layout = device, layout
        self._mailbox, self._staging = device.pin(_MAILBOX), device.pin(layout.nbytes)
        self._mailbox.array[:] = 0
        self._staging.array[:] = 0
        self.planes = layout.planes(self._staging.array)
        self._far_mailbox = device.allocate(_MAILBOX)
        self._far_in = None if device.integrated else device.allocate(layout.nbytes)
        self._far_out = device.allocate(layout.nbytes)
        mailbox: Any = self._mailbox.array
        self.job = Job.from_buffer(mailbox)
        self._findings = Findings.from_buffer(mailbox, _FINDINGS_AT)
        color = layout.color
        for image in (self.job.source, self.job.destination):
            image.format, image.width, image.height = layout.format, layout.width, layout.height
            image.matrix, image.range, image.siting = color.matrix, color.range, color.siting
        self._events = [device.event(timing=True) for _ in range(5)]
        self.begun, self.arrived, self.started, self.computed, self.left = self._events

    @property
    def job_address(self) -> int:
        """Where the GPU reads the job."""
        return self._far_mailbox.address

    @property
    def findings_address(self) -> int:
        """Where the GPU leaves what it found."""
        return self.job_address + _FINDINGS_AT

    @property
    def findings(self) -> tuple[float, float, int]:
        """Statistics of people and of the rest, and how many values were not finite; once ``left`` is done."""
        return self._findings.people, self._findings.rest, self._findings.non_finite

    def seconds(self) -> dict[str, float]:
        """How long the frame took in each stream; once ``left`` is done."""
        stages = {"copy_in": (self.begun, self.arrived), "gpu": (self.started, self.computed)}
        stages["copy_out"] = (self.computed, self.left)
        return {name: end.milliseconds_since(start) / 1000 for name, (start, end) in stages.items()}

    def send(self, block: Block | None, stream: Stream) -> Planes:
        """Bring a frame to the GPU: that in ``block``, or, without one, that in ``planes``. Returns where it is."""
        array, address = block or (self._staging.array, self._staging.device_address)
        if self._far_in is None:
            return self._at(_mapped(address))
        self._device.copy_in(self._far_in.address, array[: self._layout.nbytes], stream)
        return self._at(self._far_in.address)

    def destination(self, block: Block | None) -> Planes:
        """Where the GPU writes the frame that is to be in ``block`` in the end; without one, where it stays."""
        return self._at(self._far_out.address if block is None or block.address is None else block.address)

    def fetch(self, block: Block, stream: Stream) -> None:
        """Copy the result into ``block``, unless the GPU writes it there itself."""
        if block.address is None:
            self._device.copy_out(block.array[: self._layout.nbytes], self._far_out.address, stream)

    def post(self, source: Planes, destination: Planes, mix: Mix, stream: Stream) -> None:
        """Tell the GPU what the next launch works on."""
        _point(self.job.source, source)
        _point(self.job.destination, destination)
        self.job.mix = mix
        self._device.copy_in(self._far_mailbox.address, self._mailbox.array[:_FINDINGS_AT], stream)

    def fetch_findings(self, stream: Stream) -> None:
        """Copy what the GPU found to where ``findings`` reads it."""
        self._device.copy_out(self._mailbox.array[_FINDINGS_AT:], self.findings_address, stream)

    def close(self) -> None:
        """Free memory and events; the slot is not used any more."""
        for item in (self._mailbox, self._staging, self._far_mailbox, self._far_in, self._far_out):
            if item is not None:
                item.free()
        for event in self._events:
            event.close()

    def _at(self, address: int) -> Planes:
        return Planes(self._layout.addresses(address), self._layout.strides)


def _point(image: Image, planes: Planes) -> None:
    for i, (address, stride) in enumerate(zip(*planes, strict=True)):
        image.plane[i], image.stride[i] = address, stride


def _mapped(address: int | None) -> int:
    if address is None:
        raise RuntimeError("memory of an integrated GPU is not mapped")
    return address
