# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels on another processor, which QEMU plays: vector code that this machine has not is tested here."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from cases import Tensor

from crispstream.frame import Frame
from crispstream.kernels.device import make_image
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Image, Mix, Sizes, library_path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "src" / "crispstream" / "kernels"
CACHE = ROOT / ".pytest_cache" / "foreign"

FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-pthread",
)  # CMakeLists.txt: FMA for one file besides
ALIGNMENT = 64


@dataclass(frozen=True)
class Processor:
    """A processor, the command that plays it, and a compiler: ``foreign`` ones compile the library's sources too,
    this machine's own one takes the library as it is installed."""

    name: str
    emulator: tuple[str, ...]
    compiler: str
    foreign: bool

    def missing(self) -> str | None:
        """What has to be installed; None where nothing is."""
        if not self.foreign and platform.machine() != "x86_64":
            return "needs a library for x86-64"
        packages = {"qemu-user": self.emulator[0], "g++-aarch64-linux-gnu" if self.foreign else "g++": self.compiler}
        absent = [package for package, program in packages.items() if not shutil.which(program)]
        return f"not installed, type: sudo apt install {' '.join(absent)}" if absent else None


PROCESSORS = (
    Processor("aarch64", ("qemu-aarch64",), "aarch64-linux-gnu-g++", foreign=True),
    Processor("x86-64 without AVX2", ("qemu-x86_64", "-cpu", "Nehalem"), "g++", foreign=False),
)


class Call(ctypes.Structure):
    """``Call`` of foreign_driver.cpp."""

    _fields_ = (
        *(("function", ctypes.c_int32), ("threads", ctypes.c_int32), ("geometry", Sizes), ("mix", Mix)),
        *(("source", Image), ("destination", Image)),
        *((name, ctypes.c_int64) for name in ("head", "foreground", "background", "packed", "bias", "bytes")),
    )


class Reply(ctypes.Structure):
    """``Reply`` of foreign_driver.cpp."""

    _fields_ = (("status", ctypes.c_int32), ("statistics", ctypes.c_float * 2), ("non_finite", ctypes.c_uint64))


class Memory:
    """Arrays one behind another. Offset 0 holds nothing: it stands for null."""

    def __init__(self) -> None:
        self.data = bytearray(ALIGNMENT)

    def put(self, array: Tensor | None) -> int:
        """Append whole rows, gaps between them included; returns the offset."""
        if array is None:
            return 0
        offset = len(self.data)
        self.data += _memory_of(array).tobytes()
        self.data += bytes(-len(self.data) % ALIGNMENT)
        return offset

    def get(self, offset: int, array: Tensor) -> None:
        """Fill ``array`` and its gaps from ``offset`` on."""
        span = _memory_of(array)
        span[:] = np.frombuffer(self.data, np.uint8, span.size, offset)


class ForeignKernels:
    """The functions of ``bindings``; 2 threads where those would choose."""

    def __init__(self, processor: Processor) -> None:
        program = _driver(processor)
        self._process = subprocess.Popen(
            (*processor.emulator, str(program)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def close(self) -> None:
        """End the emulator, which has nothing left to do."""
        self._pipe("stdin").close()
        assert self._process.wait(60) == 0
        self._pipe("stdout").close()

    def unpack(self, frame: Frame, geometry: Geometry, packed: Tensor, threads: int = 0) -> None:
        memory = Memory()
        call = Call(0, threads or 2, _sizes(geometry, packed), source=_image(memory, frame), packed=memory.put(packed))
        self._run(call, memory)
        memory.get(call.packed, packed)

    def blend(
        self,
        frame: Frame,
        geometry: Geometry,
        head: Tensor,
        foreground: Tensor | None,
        background: Tensor | None,
        out: Frame,
        strength: float = 1.0,
        mask_gain: float = 1.0,
        mask_bias: float = 0.0,
        threads: int = 0,
    ) -> int:
        memory = Memory()
        tensors = (memory.put(head), memory.put(foreground), memory.put(background))
        images = (_image(memory, frame), _image(memory, out))
        mix = Mix(strength, mask_gain, mask_bias)
        call = Call(1, threads or 2, _sizes(geometry, head), mix, *images, *tensors)
        reply = self._run(call, memory)
        for plane, offset in zip(out.planes, call.destination.plane, strict=False):
            memory.get(offset, plane)
        return int(reply.non_finite)

    def statistics(self, geometry: Geometry, head: Tensor) -> tuple[float, float]:
        memory = Memory()
        reply = self._run(Call(2, 1, _sizes(geometry, head), head=memory.put(head)), memory)
        return reply.statistics[0], reply.statistics[1]

    def residual(
        self, features: Tensor, factors: Tensor, weight: Tensor, bias: Tensor, out: Tensor, threads: int = 1
    ) -> None:
        memory, (_, channels, height, width) = Memory(), features.shape
        tensors = [memory.put(tensor) for tensor in (features, factors, weight, out, bias)]
        call = Call(3, threads, Sizes(channels, width, height, weight.shape[0]), Mix(), Image(), Image(), *tensors)
        self._run(call, memory)
        memory.get(call.packed, out)

    def _run(self, call: Call, memory: Memory) -> Reply:
        call.bytes = len(memory.data)
        self._pipe("stdin").write(bytes(call) + memory.data)
        self._pipe("stdin").flush()
        reply = Reply.from_buffer_copy(self._read(ctypes.sizeof(Reply)))
        memory.data = bytearray(self._read(call.bytes))
        if reply.status:
            raise ValueError(f"status {reply.status}: 16 is no multiple of the map stride, or sizes do not fit")
        return reply

    def _read(self, count: int) -> bytes:
        data = self._pipe("stdout").read(count)
        assert len(data) == count, f"the emulator ended with {self._process.wait()}"
        return data

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe


def _driver(processor: Processor) -> Path:
    """The driver, compiled once for each state of its sources, into the test cache."""
    command = (processor.compiler, *FLAGS, "-I", str(KERNELS), "-I", str(KERNELS / "include"))
    files = [HERE / "foreign_driver.cpp"]
    if processor.foreign:
        files += sorted(KERNELS.glob("*_cpu.cpp"))
        libraries = ["-static"]  # the emulator needs no other file
    else:
        library = library_path("crispstream_cpu").resolve()
        libraries = [str(library), f"-Wl,-rpath,{library.parent}"]
    digest = hashlib.sha256(repr((command, libraries)).encode())
    for path in [*files, *sorted(KERNELS.rglob("*.h"))]:
        digest.update(path.read_bytes())
    program = CACHE / digest.hexdigest()[:16]
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder) / "driver"
            subprocess.run((*command, *map(str, files), *libraries, "-o", str(made)), check=True)
            os.replace(made, program)
    return program


def _memory_of(array: Tensor) -> Tensor:
    """The bytes from the first element to the last, gaps between rows included; shares memory."""
    stride, rows = (array.strides[0], array.shape[0]) if array.shape[0] > 1 else (array.nbytes, 1)
    first = array[(slice(1),) * array.ndim].view(np.uint8)
    return np.lib.stride_tricks.as_strided(first, (stride * (rows - 1) + array[0].nbytes,), (1,))


def _image(memory: Memory, frame: Frame) -> Image:
    planes = [memory.put(plane) for plane in frame.planes]
    strides = [plane.strides[0] if plane.shape[0] > 1 else plane[0].nbytes for plane in frame.planes]
    return make_image(frame.format, (frame.width, frame.height), frame.color, planes, strides)


def _sizes(geometry: Geometry, tensor: Tensor) -> Sizes:
    half = int(tensor.dtype == np.float16)
    return Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, half)
