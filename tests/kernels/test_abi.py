# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments, at the Python functions and at the C ABI below them; libraries that cannot be used."""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crispstream.errors import EngineError
from crispstream.frame import ColorSpec, Frame, PixelFormat, plane_shapes
from crispstream.kernels import bindings, library, reference
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Image, Mix, Sizes, cpu_library

GEOMETRY = Geometry.for_size(20, 12, pack=2, multiple=16, map_stride=8)
NULL_POINTER, BAD_FORMAT, BAD_SIZE, BAD_STRIDE, BAD_ARGUMENT = range(1, 6)


def frame(pixel_format: PixelFormat = PixelFormat.I420, width: int = 20, height: int = 12) -> Frame:
    planes = tuple(np.zeros(s, np.uint8) for s in plane_shapes(pixel_format, width, height))
    return Frame(planes, pixel_format, ColorSpec())


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


HEAD, PACKED = GEOMETRY.head_shape, GEOMETRY.packed_shape


@pytest.mark.parametrize("kernels", [bindings, reference])
@pytest.mark.parametrize(
    ("source", "packed", "message"),
    [
        (frame(width=22), zeros(PACKED), "geometry is for 20x12, got 22x12"),
        (frame(), zeros((1, 12, 8, 15)), "shape"),
        (frame(), zeros(PACKED, np.float64), "float64"),
        (frame(), zeros(PACKED[::-1]).T, "not contiguous"),
        (frame(), np.broadcast_to(np.float32(0), PACKED), "contiguous"),
        (frame(), np.frombuffer(bytes(4 * 12 * 8 * 16), np.float32).reshape(PACKED), "writeable"),
    ],
)
def test_unpack_refuses(kernels: Any, source: Frame, packed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.unpack(source, GEOMETRY, packed)


@pytest.mark.parametrize("kernels", [bindings, reference])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": zeros((1, 2, 2, 3))}, "head"),
        ({"foreground": zeros((1, 12, 8, 8))}, "foreground"),
        ({"background": zeros(PACKED, np.int32)}, "background"),
        ({"background": zeros(PACKED, np.float16)}, "background is float16, the head is float32"),
        ({"out": frame(width=21)}, "out is 21x12, the frame is 20x12"),
        ({"frame": frame(height=13)}, "geometry is for 20x12"),
    ],
)
def test_blend_refuses(kernels: Any, change: dict[str, Any], message: str) -> None:
    tensors = {"head": zeros(HEAD), "foreground": zeros(PACKED), "background": zeros(PACKED)}
    with pytest.raises(ValueError, match=message):
        kernels.blend(**{"frame": frame(), "geometry": GEOMETRY, **tensors, "out": frame(), **change})


@pytest.mark.parametrize("kernels", [bindings, reference])
def test_blend_refuses_a_frozen_output(kernels: Any) -> None:
    out = frame()
    out.planes[2].flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        kernels.blend(frame(), GEOMETRY, zeros(HEAD), None, None, out)


def test_threads_are_not_negative() -> None:
    with pytest.raises(ValueError, match="threads"):
        bindings.unpack(frame(), GEOMETRY, zeros(PACKED), threads=-1)


@pytest.mark.parametrize("kernels", [bindings, reference])
def test_statistics_refuses(kernels: Any) -> None:
    with pytest.raises(ValueError, match="head"):
        kernels.statistics(GEOMETRY, zeros((2, 2, 4)))


class Call:
    """One valid blend (and unpack) at the level of C, to be spoilt."""

    def __init__(self) -> None:
        self.frames = (frame(), frame())
        self.source, self.destination = (bindings._image(f) for f in self.frames)
        self.sizes = Sizes(2, 32, 16, 8, 0)
        self.tensors = [zeros(HEAD), zeros(PACKED), zeros(PACKED)]
        self.mix = Mix(1, 1, 0)
        self.threads = 1

    def blend(self) -> int:
        head, foreground, background = (t.ctypes.data for t in self.tensors)
        status: int = cpu_library().crispstream_cpu_blend(
            *(self.source, self.sizes, head, foreground, background, self.mix, self.destination, None, self.threads)
        )
        return status

    def unpack(self) -> int:
        packed = self.tensors[1].ctypes.data
        status: int = cpu_library().crispstream_cpu_unpack(self.source, self.sizes, packed, self.threads)
        return status

    def statistics(self) -> int:
        found = (ctypes.c_float * 2)()
        status: int = cpu_library().crispstream_cpu_statistics(self.sizes, self.tensors[0].ctypes.data, found)
        return status


def spoil(target: str, name: str, value: Any) -> Callable[[Call], None]:
    return lambda call: setattr(getattr(call, target), name, value)


def spoil_plane(name: str, i: int, value: int | None) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        getattr(call.source, name)[i] = value

    return change


IMAGE = [
    (spoil("source", "format", 4), BAD_FORMAT),
    (spoil("source", "format", -1), BAD_FORMAT),
    (spoil("source", "matrix", 3), BAD_FORMAT),
    (spoil("source", "range", 2), BAD_FORMAT),
    (spoil("source", "siting", -1), BAD_FORMAT),
    (spoil("source", "width", 0), BAD_SIZE),
    (spoil("source", "height", -12), BAD_SIZE),
    (spoil("source", "width", 1 << 20), BAD_SIZE),
    (spoil_plane("stride", 0, 19), BAD_STRIDE),
    (spoil_plane("stride", 2, 9), BAD_STRIDE),
    (spoil_plane("stride", 1, -20), BAD_STRIDE),
    (spoil_plane("plane", 0, None), NULL_POINTER),
    (spoil_plane("plane", 2, None), NULL_POINTER),
    (lambda call: setattr(call, "source", ctypes.POINTER(Image)()), NULL_POINTER),
    (lambda call: setattr(call, "threads", 0), BAD_ARGUMENT),
]
SIZES = [
    (spoil("sizes", "pack", 0), BAD_SIZE),
    (spoil("sizes", "pack", 3), BAD_SIZE),
    (spoil("sizes", "map_stride", 0), BAD_SIZE),
    (spoil("sizes", "map_stride", 12), BAD_SIZE),
    (spoil("sizes", "padded_width", -32), BAD_SIZE),
    (spoil("sizes", "padded_height", 1 << 20), BAD_SIZE),
    (spoil("sizes", "dtype", 2), BAD_FORMAT),
    (lambda call: setattr(call, "sizes", ctypes.POINTER(Sizes)()), NULL_POINTER),
]
FIT = [
    (spoil("sizes", "padded_width", 16), BAD_SIZE),
    (spoil("sizes", "padded_height", 8), BAD_SIZE),
]


def test_the_unspoilt_call_succeeds() -> None:
    assert [Call().blend(), Call().unpack(), Call().statistics()] == [0, 0, 0]


@pytest.mark.parametrize(("change", "status"), [*IMAGE, *SIZES, *FIT])
def test_c_unpack_and_blend_refuse(change: Callable[[Call], None], status: int) -> None:
    for run in (Call.unpack, Call.blend):
        call = Call()
        change(call)
        assert run(call) == status


@pytest.mark.parametrize(("change", "status"), SIZES)
def test_c_statistics_refuse(change: Callable[[Call], None], status: int) -> None:
    call = Call()
    change(call)
    assert call.statistics() == status


def test_c_statistics_refuse_a_stride_that_does_not_divide_16() -> None:
    call = Call()
    call.sizes.map_stride = 32
    call.sizes.padded_height = 32
    assert call.statistics() == BAD_ARGUMENT


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (spoil("destination", "width", 19), BAD_SIZE),
        (spoil("destination", "format", 7), BAD_FORMAT),
        (lambda call: setattr(call, "destination", ctypes.POINTER(Image)()), NULL_POINTER),
        (lambda call: setattr(call, "mix", ctypes.POINTER(Mix)()), NULL_POINTER),
    ],
)
def test_c_blend_refuses(change: Callable[[Call], None], status: int) -> None:
    call = Call()
    change(call)
    assert call.blend() == status


def test_c_blend_refuses_another_stride_in_place() -> None:
    call = Call()
    call.destination.plane[0], call.destination.stride[0] = call.source.plane[0], 40
    assert call.blend() == BAD_STRIDE


def test_c_refuses_null_tensors() -> None:
    kernels, call = cpu_library(), Call()
    blend = (call.source, call.sizes, None, None, None, call.mix, call.destination, None, 1)
    assert kernels.crispstream_cpu_blend(*blend) == NULL_POINTER
    assert kernels.crispstream_cpu_unpack(call.source, call.sizes, None, 1) == NULL_POINTER
    assert kernels.crispstream_cpu_statistics(call.sizes, None, (ctypes.c_float * 2)()) == NULL_POINTER
    assert kernels.crispstream_cpu_statistics(call.sizes, call.tensors[0].ctypes.data, None) == NULL_POINTER
    assert kernels.crispstream_color(0, 0, None) == NULL_POINTER
    assert kernels.crispstream_color(3, 0, (ctypes.c_float * 17)()) == BAD_FORMAT


def test_every_status_has_a_text() -> None:
    texts = [cpu_library().crispstream_status_text(i).decode() for i in (*range(8), 99, -1)]
    assert texts[0] == "ok" and all(texts)
    assert len(set(texts[:8])) == 8 and texts[8] == texts[9] == "unknown status"


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRISPSTREAM_LIBRARY_DIR", str(tmp_path))
    path = library.library_path("crispstream_cpu")
    assert path == tmp_path / "libcrispstream_cpu.so"
    with pytest.raises(EngineError, match="does not exist") as caught:
        library.open_library(path)
    assert "CRISPSTREAM_LIBRARY_DIR" in caught.value.hint


def test_damaged_library(tmp_path: Path) -> None:
    path = tmp_path / "libcrispstream_cpu.so"
    path.write_bytes(b"not a library")
    with pytest.raises(EngineError, match="cannot be loaded"):
        library.open_library(path)


def test_foreign_library() -> None:
    with pytest.raises(EngineError, match="not a CrispStream kernel library"):
        library.open_library(Path(_ctypes.__file__))


def test_library_of_another_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI_VERSION", 3)
    with pytest.raises(EngineError, match="has kernel ABI 2, this version needs 3"):
        library.open_library(library.library_path("crispstream_cpu"))
