# SPDX-License-Identifier: Apache-2.0
"""The pixel kernels on a GPU, by the addresses of what they work on. ``docs/kernels.md`` holds the arithmetic.

Nothing here allocates, waits or knows of pycuda: work is enqueued on the caller's stream in the current context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from crispstream.errors import EngineError
from crispstream.frame import ColorSpec, PixelFormat
from crispstream.kernels.library import Findings, Image, Job, Mix, Sizes

JOB_BYTES = ctypes.sizeof(Job)
FINDINGS_BYTES = ctypes.sizeof(Findings)

Jobs = Job | ctypes.Array[Job]

_CUDA_ERROR = 1000  # CRISPSTREAM_CUDA_ERROR


def make_image(
    pixel_format: PixelFormat,
    size: tuple[int, int],
    color: ColorSpec,
    planes: Sequence[int],
    strides: Sequence[int],
) -> Image:
    """An image in device memory: ``size`` (width, height) in pixels; address of each plane, bytes from row to row."""
    image = Image(pixel_format, *size, color.matrix, color.range, color.siting)
    image.plane[: len(planes)] = planes
    image.stride[: len(strides)] = strides
    return image


def make_job(source: Image, destination: Image | None = None, mix: Mix | None = None) -> Job:
    """What one frame needs; unpack reads the source alone. ``mix``: strength 1 and the mask as it is, where None."""
    return Job(source, destination or Image(), mix or Mix(1, 1, 0))


class DeviceKernels:
    """The launchers of one CUDA library (``cuda_library``). The caller's thread has a current context.

    Addresses are of device memory, or of host memory mapped into it; tensors and findings at multiples of 16 bytes.
    ``jobs``: a Job or an array of ``batch``, on the host, alike in format, size and colour; it is read now.
    ``device_jobs``: the address of a copy, read when the kernel runs, and then only planes, strides and mix, which may
    be rewritten between launches of a graph. ``stream``: a CUstream. Methods raise ValueError where an argument does
    not fit, EngineError where CUDA fails.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def unpack(self, jobs: Jobs, device_jobs: int, batch: int, sizes: Sizes, packed: int, stream: int) -> None:
        """Frames to (batch, 3 s^2, H / s, W / s) at ``packed``; as ``bindings.unpack``."""
        self._call("crispstream_cuda_unpack", jobs, device_jobs, batch, sizes, packed, stream)

    def blend(
        self,
        jobs: Jobs,
        device_jobs: int,
        batch: int,
        sizes: Sizes,
        head: int,
        foreground: int | None,
        background: int | None,
        findings: int | None,
        stream: int,
    ) -> None:
        """Frames and residuals to frames, as ``bindings.blend``; adds what it drops to ``findings[i].non_finite``.

        ``head`` (batch, 2, H / map_stride, W / map_stride), ``foreground`` and ``background`` shaped as ``packed``.
        """
        tensors = (head, foreground, background, findings)
        self._call("crispstream_cuda_blend", jobs, device_jobs, batch, sizes, *tensors, stream)

    def statistics(self, sizes: Sizes, batch: int, head: int, findings: int, stream: int) -> None:
        """What ``bindings.statistics`` returns, into ``findings`` (batch Findings); sets ``non_finite`` to 0."""
        self._call("crispstream_cuda_statistics", sizes, batch, head, findings, stream)

    def capture_begin(self, stream: int) -> None:
        """From now on what this thread enqueues on ``stream`` is recorded, not run."""
        self._call("crispstream_cuda_capture_begin", stream)

    def capture_end(self, stream: int) -> int:
        """End the recording; returns an executable graph. Ends it too where it raises EngineError."""
        graph = ctypes.c_void_p()
        self._call("crispstream_cuda_capture_end", stream, ctypes.byref(graph))
        return int(graph.value or 0)

    def graph_launch(self, graph: int, stream: int) -> None:
        """Enqueue recorded work on ``stream``."""
        self._call("crispstream_cuda_graph_launch", graph, stream)

    def graph_destroy(self, graph: int) -> None:
        """Free a graph, no launch of which is under way."""
        self._call("crispstream_cuda_graph_destroy", graph)

    def _call(self, name: str, *arguments: object) -> None:
        if status := getattr(self._library, name)(*arguments):
            text = self._library.crispstream_status_text(status).decode()
            if status < _CUDA_ERROR:
                raise ValueError(f"{name}: {text}")
            raise EngineError(f"{name}: CUDA error {status - _CUDA_ERROR}: {text}", "crispstream doctor")
