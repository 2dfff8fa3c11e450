# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments at the C ABI of the CUDA kernels: they are refused before a GPU is asked for anything."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_runs import sizes_of
from emulation.build import emulated_library
from machines import Emulated

from crispstream.errors import EngineError
from crispstream.frame import ColorSpec, PixelFormat
from crispstream.kernels import library
from crispstream.kernels.device import make_image, make_job
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import CUDA_MAJORS, Image, Job, Sizes, library_path, open_cuda_library

GEOMETRY = Geometry.for_size(20, 12, pack=2, multiple=16, map_stride=8)
NULL_POINTER, BAD_FORMAT, BAD_SIZE, BAD_STRIDE, BAD_ARGUMENT, _, BAD_ALIGNMENT = range(1, 8)
INSTALLED = [path for major in CUDA_MAJORS if (path := library_path(f"crispstream_cuda{major}")).exists()]
MEMORY = 1 << 20
"""Where device memory would be; no launcher looks at it."""


@pytest.fixture(scope="module", params=["emulated", *INSTALLED], ids=lambda p: p if isinstance(p, str) else p.stem)
def cuda(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return open_cuda_library(emulated_library() if request.param == "emulated" else request.param)


class Call:
    """Valid calls with two jobs, to be spoilt."""

    def __init__(self) -> None:
        def image(address: int) -> Image:
            planes = [address, address + 256, address + 512]
            return make_image(PixelFormat.I420, (20, 12), ColorSpec(), planes, [20, 10, 10])

        self.jobs: Any = (Job * 2)(*(make_job(image(MEMORY + i), image(MEMORY + 4096 + i)) for i in (0, 2048)))
        self.device_jobs: int | None = MEMORY
        self.batch = 2
        self.sizes: Any = sizes_of(GEOMETRY, "float16")
        self.packed = self.head = self.findings = MEMORY
        self.foreground = self.background = MEMORY

    def unpack(self, cuda: ctypes.CDLL) -> int:
        arguments = (self.jobs, self.device_jobs, self.batch, self.sizes, self.packed, None)
        return int(cuda.crispstream_cuda_unpack(*arguments))

    def blend(self, cuda: ctypes.CDLL) -> int:
        tensors = (self.head, self.foreground, self.background, self.findings)
        return int(cuda.crispstream_cuda_blend(self.jobs, self.device_jobs, self.batch, self.sizes, *tensors, None))

    def statistics(self, cuda: ctypes.CDLL) -> int:
        return int(cuda.crispstream_cuda_statistics(self.sizes, self.batch, self.head, self.findings, None))


Change = Callable[[Call], None]


def own(name: str, value: Any) -> Change:
    return lambda call: setattr(call, name, value)


def sizes(name: str, value: int) -> Change:
    return lambda call: setattr(call.sizes, name, value)


def source(job: int, name: str, value: int) -> Change:
    return lambda call: setattr(call.jobs[job].source, name, value)


def destination(job: int, name: str, value: int) -> Change:
    return lambda call: setattr(call.jobs[job].destination, name, value)


def plane(image: str, array: str, i: int, value: int | None) -> Change:
    return lambda call: getattr(getattr(call.jobs[1], image), array).__setitem__(i, value)


def in_place(stride: int) -> Change:
    def change(call: Call) -> None:
        for job in call.jobs:
            job.destination = job.source
        call.jobs[1].destination.stride[0] = stride

    return change


def convert_in_place(call: Call) -> None:
    for job in call.jobs:
        job.destination = job.source
        job.destination.matrix = 0


BATCHES: list[tuple[Change, int]] = [
    (own("batch", 0), BAD_ARGUMENT),
    (own("batch", -1), BAD_ARGUMENT),
    (own("batch", 1025), BAD_ARGUMENT),
    (own("sizes", ctypes.POINTER(Sizes)()), NULL_POINTER),
    (sizes("pack", 0), BAD_SIZE),
    (sizes("pack", 3), BAD_SIZE),
    (sizes("map_stride", 12), BAD_SIZE),
    (sizes("padded_width", 1 << 20), BAD_SIZE),
    (sizes("dtype", 2), BAD_FORMAT),
]
SOURCES: list[tuple[Change, int]] = [
    (own("jobs", ctypes.POINTER(Job)()), NULL_POINTER),
    (own("device_jobs", None), NULL_POINTER),
    (own("device_jobs", MEMORY + 4), BAD_ALIGNMENT),
    (source(1, "format", 4), BAD_FORMAT),
    (source(1, "matrix", -1), BAD_FORMAT),
    (source(0, "width", 0), BAD_SIZE),
    (source(1, "height", 1 << 20), BAD_SIZE),
    (source(0, "width", 40), BAD_STRIDE),
    (plane("source", "stride", 1, 9), BAD_STRIDE),
    (plane("source", "plane", 2, None), NULL_POINTER),
    (sizes("padded_height", 8), BAD_SIZE),
    (source(1, "format", PixelFormat.NV12), BAD_STRIDE),
    (source(1, "width", 18), BAD_ARGUMENT),
    (source(1, "height", 10), BAD_ARGUMENT),
    (source(1, "range", 1), BAD_ARGUMENT),
]


def test_the_unspoilt_calls_succeed_and_wait_in_their_stream() -> None:
    """Enqueued, not run: the addresses are nobody's."""
    machine, call = Emulated(), Call()
    machine.kernels.unpack(call.jobs, MEMORY, 2, call.sizes, MEMORY, machine.stream)
    machine.kernels.blend(call.jobs, MEMORY, 2, call.sizes, MEMORY, MEMORY, None, None, machine.stream)
    machine.kernels.statistics(call.sizes, 2, MEMORY, MEMORY, machine.stream)
    assert machine.discard() == 4, "three kernels, and the memset of the findings"


@pytest.mark.parametrize(("change", "status"), [*BATCHES, *SOURCES, (own("packed", None), NULL_POINTER)])
def test_unpack_refuses(cuda: ctypes.CDLL, change: Change, status: int) -> None:
    call = Call()
    change(call)
    assert call.unpack(cuda) == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *BATCHES,
        *SOURCES,
        (own("head", None), NULL_POINTER),
        (own("head", MEMORY + 8), BAD_ALIGNMENT),
        (own("foreground", MEMORY + 2), BAD_ALIGNMENT),
        (own("background", MEMORY + 1), BAD_ALIGNMENT),
        (own("findings", MEMORY + 8), BAD_ALIGNMENT),
        (destination(0, "format", 9), BAD_FORMAT),
        (destination(1, "width", 19), BAD_SIZE),
        (destination(1, "siting", 1), BAD_ARGUMENT),
        (plane("destination", "plane", 0, None), NULL_POINTER),
        (plane("destination", "stride", 2, 4), BAD_STRIDE),
        (in_place(40), BAD_STRIDE),
        (convert_in_place, BAD_ARGUMENT),
    ],
)
def test_blend_refuses(cuda: ctypes.CDLL, change: Change, status: int) -> None:
    call = Call()
    change(call)
    assert call.blend(cuda) == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *BATCHES,
        (own("head", None), NULL_POINTER),
        (own("findings", None), NULL_POINTER),
        (own("head", MEMORY + 2), BAD_ALIGNMENT),
        (own("findings", MEMORY + 8), BAD_ALIGNMENT),
        (sizes("map_stride", 32), BAD_SIZE),
    ],
)
def test_statistics_refuse(cuda: ctypes.CDLL, change: Change, status: int) -> None:
    call = Call()
    change(call)
    assert call.statistics(cuda) == status


def test_statistics_refuse_a_stride_that_does_not_divide_16(cuda: ctypes.CDLL) -> None:
    call = Call()
    call.sizes.map_stride = call.sizes.padded_height = 32
    assert call.statistics(cuda) == BAD_ARGUMENT


def test_tensors_stay_below_two_billion_elements(cuda: ctypes.CDLL) -> None:
    call = Call()
    call.sizes.padded_width = call.sizes.padded_height = 32768
    assert call.unpack(cuda) == BAD_SIZE


def test_graphs_refuse_null(cuda: ctypes.CDLL) -> None:
    assert cuda.crispstream_cuda_capture_end(None, None) == NULL_POINTER
    assert cuda.crispstream_cuda_graph_launch(None, None) == NULL_POINTER
    assert cuda.crispstream_cuda_graph_destroy(None) == NULL_POINTER


def test_texts(cuda: ctypes.CDLL) -> None:
    texts = [cuda.crispstream_status_text(i).decode() for i in (*range(8), 99)]
    assert len(set(texts)) == 9 and texts[8] == "unknown status"
    assert cuda.crispstream_status_text(1000 + 1).decode() == "invalid argument"


def test_errors_of_cuda_say_what_failed() -> None:
    """Recording on the default stream is what CUDA itself forbids."""
    with pytest.raises(EngineError, match=r"capture_begin: CUDA error 900: operation not permitted"):
        Emulated().kernels.capture_begin(0)


@pytest.mark.skipif(not INSTALLED, reason="the CUDA kernels are not installed (no nvcc when the package was)")
def test_without_a_gpu_a_launch_returns_an_error() -> None:
    program = """
from test_cuda_abi import Call, INSTALLED
from crispstream.kernels.library import open_cuda_library
for path in INSTALLED:
    cuda = open_cuda_library(path)
    for run in (Call.unpack, Call.blend, Call.statistics):
        status = run(Call(), cuda)
        assert status > 1000, status
        print(status, cuda.crispstream_status_text(status).decode())
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(library.DIRECTORY_VARIABLE, str(tmp_path))
    library.cuda_library.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("built", "driver", "chosen"),
    [((12, 13), 13000, 13), ((12, 13), 12060, 12), ((12,), 13010, 12), ((13,), 14000, 13), ((12, 13), 12000, 12)],
)
def test_the_newest_library_that_the_driver_runs(
    folder: Path, built: tuple[int, ...], driver: int, chosen: int
) -> None:
    for major in built:
        (folder / f"libcrispstream_cuda{major}.so").symlink_to(emulated_library())
    assert library.cuda_library(driver)._name == str(folder / f"libcrispstream_cuda{chosen}.so")
    library.cuda_library.cache_clear()


@pytest.mark.parametrize(
    ("built", "driver", "message", "hint"),
    [
        ((), 13000, "not installed", "nvcc on the PATH"),
        ((13,), 12080, "built for CUDA 13, the driver knows CUDA 12", "with nvcc 12"),
        ((12, 13), 11080, "built for CUDA 12, the driver knows CUDA 11", "update the driver$"),
    ],
)
def test_no_library_for_the_driver(folder: Path, built: tuple[int, ...], driver: int, message: str, hint: str) -> None:
    for major in built:
        (folder / f"libcrispstream_cuda{major}.so").symlink_to(emulated_library())
    with pytest.raises(EngineError, match=message) as caught:
        library.cuda_library(driver)
    assert re.search(hint, caught.value.hint)
