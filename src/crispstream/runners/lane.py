# SPDX-License-Identifier: Apache-2.0
"""Frames of one layout through a GPU: copied in, captured work, copied out, SLOTS of them at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from crispstream.cuda.device import Device
from crispstream.cuda.interop import DeviceArray
from crispstream.cuda.libcuda import LEGACY_STREAM
from crispstream.cuda.stream import Stream
from crispstream.device_frame import DeviceFrame
from crispstream.engine.protocol import GpuEngine, Graph
from crispstream.errors import EngineError
from crispstream.frame import Frame
from crispstream.gating import SLOTS, Decision
from crispstream.kernels.library import Mix, Sizes
from crispstream.runners.layout import FrameLayout
from crispstream.runners.pinned import DeviceFrames, PinnedFrames
from crispstream.runners.protocol import Outcome, geometry_of, visible
from crispstream.runners.slot import Planes, Slot

VARIANTS = tuple(Decision(foreground, background) for foreground in (True, False) for background in (True, False))


@dataclass(frozen=True, slots=True)
class Streams:
    """Frame n + 1 comes in while n is computed and n - 1 goes out."""

    copy_in: Stream
    compute: Stream
    copy_out: Stream

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.synchronize()

    def close(self) -> None:
        """Free the streams."""
        for stream in (self.copy_in, self.compute, self.copy_out):
            stream.close()


class Lane:
    """Everything that frames of one layout need, allocated, warmed up and captured at once.

    Lives in the worker's thread. One network and one set of its tensors serve all slots: the compute stream runs them
    one after the other. Raises EngineError where the engine has nothing for this size.
    """

    def __init__(self, engine: GpuEngine, streams: Streams, like: Frame) -> None:
        self._device: Device = engine.worker.device
        self._worker, self._streams = engine.worker, streams
        self.layout = FrameLayout.of(like)
        self.geometry = geometry_of(engine.manifest, (like.width, like.height))
        g = self.geometry
        self._sizes = Sizes(g.pack, g.padded_width, g.padded_height, g.map_stride, 1)
        self.frames = PinnedFrames(self._device, self.layout)
        self.device_frames = DeviceFrames(self._worker, self.layout)
        self._graphs: dict[tuple[int, str], Graph] = {}
        self._slots: list[Slot] = []
        self._parts = engine.open_parts(self.geometry)
        try:
            for number in range(SLOTS):
                self._slots.append(Slot(number, self._device, self.layout))
            self._free = deque(self._slots)
            self.frames.reserve(SLOTS + 2)
            self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def idle(self) -> bool:
        """Whether nothing of this lane is under way."""
        return len(self._free) == len(self._slots)

    def launch(self, frame: Frame, decision: Decision, strength: float, future: Future[Outcome]) -> None:
        """Start on a frame; ``future`` gets its outcome in the worker's thread. Waits for a slot."""
        while not self._free:
            if not self._worker.finish_oldest():
                raise EngineError("the GPU has lost the frames under way", "open the engine again")
        slot = self._free.popleft()
        try:
            self._start(slot, frame, decision, strength, future)
        except BaseException:
            self._give_back(slot)
            raise

    def head(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Person mask and blur gate of a frame: (2, rows, columns)."""
        future: Future[Outcome] = Future()
        self.launch(frame, Decision(False, False), 0.0, future)
        while not future.done() and self._worker.finish_oldest():
            pass
        future.result(timeout=0)
        head = np.empty(self.geometry.head_shape, np.float16)
        self._device.copy_out(head, self._parts.head, self._streams.copy_out)
        self._streams.copy_out.synchronize()
        return visible(head, frame, self.geometry.map_stride)

    def close(self) -> None:
        """Free graphs, network and memory in that order; nothing is under way. Idempotent."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        self._parts.close()
        for slot in self._slots:
            slot.close()
        self._slots.clear()
        self.frames.close()
        self.device_frames.close()

    def _start(self, slot: Slot, frame: Frame, decision: Decision, strength: float, future: Future[Outcome]) -> None:
        streams = self._streams
        planes: tuple[Any, ...]
        mix = Mix(strength * decision.strength, decision.mask_gain, decision.mask_bias)
        if isinstance(frame, DeviceFrame):
            slot.begun.record(streams.copy_in)
            for plane in frame.planes:
                plane.prepare(self._device, streams.copy_in)
            # A result whose memory comes back may still be read by work on the consumer's default stream.
            streams.copy_in.follow(LEGACY_STREAM)
            block, planes = None, self.device_frames.lend()
            slot.post(_planes(frame.planes), _planes(planes), mix, streams.copy_in)
        else:
            planes, block = self.frames.lend()
            lent = self.frames.block_of(frame)
            if lent is None:
                for mine, theirs in zip(slot.planes, frame.planes, strict=True):
                    np.copyto(mine, theirs)
            slot.begun.record(streams.copy_in)
            source = slot.send(lent, streams.copy_in)
            slot.post(source, slot.destination(block), mix, streams.copy_in)
        slot.arrived.record(streams.copy_in)
        self._compute(slot, decision)
        if block is not None:
            slot.fetch(block, streams.copy_out)
        slot.fetch_findings(streams.copy_out)
        slot.left.record(streams.copy_out)

        def finish() -> None:
            people, rest, non_finite = slot.findings
            future.set_result(Outcome(frame.with_planes(planes), (people, rest), non_finite, slot.seconds()))
            self._free.append(slot)  # last: where something above fails, ``fail`` does it

        def fail(error: BaseException) -> None:
            self._give_back(slot)
            future.set_exception(error)

        self._worker.when(slot.left, finish, fail)

    def _give_back(self, slot: Slot) -> None:
        """Take a slot back whose frame failed. Nothing may still use it; where the GPU is dead, nothing can."""
        with suppress(EngineError):
            self._streams.synchronize()
        self._free.append(slot)

    def _compute(self, slot: Slot, decision: Decision) -> None:
        """Launch what was captured, after what came in and before what goes out."""
        streams = self._streams
        streams.compute.wait(slot.arrived)
        slot.started.record(streams.compute)
        self._graphs[slot.number, decision.variant].launch(streams.compute.handle)
        slot.computed.record(streams.compute)
        streams.copy_out.wait(slot.computed)

    def _enqueue(self, slot: Slot, variant: Decision) -> None:
        kernels, parts, stream = self._device.kernels, self._parts, self._streams.compute.handle
        job, findings = slot.job_address, slot.findings_address
        foreground = parts.foreground if variant.foreground else None
        background = parts.background if variant.background else None
        kernels.unpack(slot.job, job, 1, self._sizes, parts.packed, stream)
        parts.enqueue("encoder", stream)
        kernels.statistics(self._sizes, 1, parts.head, findings, stream)
        if variant.foreground:
            parts.enqueue("foreground", stream)
        if variant.background:
            parts.enqueue("background", stream)
        kernels.blend(slot.job, job, 1, self._sizes, parts.head, foreground, background, findings, stream)

    def _warm_up(self) -> None:
        """Run every variant once, which lets the libraries load what they load late, then capture it for each slot.

        Every graph is launched once, too: the first launch brings it to the GPU.
        """
        compute = self._streams.compute
        for slot in self._slots:
            slot.post(slot.send(None, compute), slot.destination(None), Mix(1, 1, 0), compute)
        for variant in VARIANTS:
            self._enqueue(self._slots[0], variant)
            compute.synchronize()
            for slot in self._slots:
                record = partial(self._enqueue, slot, variant)
                graph = self._graphs[slot.number, variant.variant] = self._parts.capture(compute.handle, record)
                graph.launch(compute.handle)
                compute.synchronize()


def _planes(arrays: tuple[DeviceArray, ...]) -> Planes:
    return Planes(tuple(a.address for a in arrays), tuple(a.strides[0] for a in arrays))
