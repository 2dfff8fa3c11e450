# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the pixel kernels' shared libraries."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from crispstream.errors import EngineError

ABI_VERSION = 2
DIRECTORY_VARIABLE = "CRISPSTREAM_LIBRARY_DIR"


class Image(ctypes.Structure):
    """``crispstream_image``."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("matrix", ctypes.c_int32),
        ("range", ctypes.c_int32),
        ("siting", ctypes.c_int32),
        ("stride", ctypes.c_int64 * 3),
        ("plane", ctypes.c_void_p * 3),
    )


class Sizes(ctypes.Structure):
    """``crispstream_geometry``."""

    _fields_ = (
        ("pack", ctypes.c_int32),
        ("padded_width", ctypes.c_int32),
        ("padded_height", ctypes.c_int32),
        ("map_stride", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class Mix(ctypes.Structure):
    """``crispstream_mix``."""

    _fields_ = (("strength", ctypes.c_float), ("mask_gain", ctypes.c_float), ("mask_bias", ctypes.c_float))


class Job(ctypes.Structure):
    """``crispstream_job``."""

    _fields_ = (("source", Image), ("destination", Image), ("mix", Mix))


class Findings(ctypes.Structure):
    """``crispstream_findings``."""

    _fields_ = (("people", ctypes.c_float), ("rest", ctypes.c_float), ("non_finite", ctypes.c_uint64))


def library_path(name: str) -> Path:
    """Where ``lib<name>.so`` is expected: the package's ``lib`` folder, or ``$CRISPSTREAM_LIBRARY_DIR``.

    The variable serves packagers who keep libraries elsewhere and developers who build without installing.
    """
    file = f"lib{name}.so"
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        return Path(directory) / file
    return Path(str(resources.files("crispstream") / "lib" / file))


def open_library(path: Path) -> ctypes.CDLL:
    """Load a kernel library and check its ABI. Raises EngineError where it is missing, damaged or of another ABI."""
    reinstall = f"install crispstream again, or set {DIRECTORY_VARIABLE} to the folder of your own build"
    try:
        library = ctypes.CDLL(str(path))
        version = library.crispstream_abi_version
    except OSError as error:
        cause = "cannot be loaded: " + str(error) if path.exists() else "does not exist"
        raise EngineError(f"pixel kernel library {path} {cause}", reinstall) from None
    except AttributeError:
        raise EngineError(f"{path} is not a CrispStream kernel library", reinstall) from None
    version.argtypes, version.restype = (), ctypes.c_int32
    if (found := version()) != ABI_VERSION:
        raise EngineError(f"{path} has kernel ABI {found}, this version needs {ABI_VERSION}", reinstall)
    library.crispstream_status_text.argtypes = (ctypes.c_int32,)
    library.crispstream_status_text.restype = ctypes.c_char_p
    return library


@cache
def cpu_library() -> ctypes.CDLL:
    """The CPU kernels, loaded once. Calls release the interpreter lock. Raises EngineError like ``open_library``."""
    library = open_library(library_path("crispstream_cpu"))
    image, sizes, pointer = ctypes.POINTER(Image), ctypes.POINTER(Sizes), ctypes.c_void_p
    signatures = {
        "crispstream_color": (ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_float)),
        "crispstream_cpu_unpack": (image, sizes, pointer, ctypes.c_int32),
        "crispstream_cpu_blend": (
            *(image, sizes, pointer, pointer, pointer, ctypes.POINTER(Mix), image),
            *(ctypes.POINTER(ctypes.c_uint64), ctypes.c_int32),
        ),
        "crispstream_cpu_statistics": (sizes, pointer, ctypes.POINTER(ctypes.c_float)),
        "crispstream_cpu_residual": (*(pointer,) * 4, *(ctypes.c_int32,) * 4, pointer, ctypes.c_int32),
    }
    return _declare(library, signatures)


CUDA_MAJORS = (13, 12)
"""CUDA versions that the kernels can be built for, the newest first."""


@cache
def cuda_library(driver_version: int) -> ctypes.CDLL:
    """The CUDA kernels that the driver can run, loaded once; needs no GPU. Calls release the interpreter lock.

    ``driver_version``: as cuDriverGetVersion has it, 12060 for CUDA 12.6. Libraries built for CUDA 12 and 13 may lie
    side by side: the newest that is not newer than the driver is taken. Raises EngineError where there is none.
    """
    built = [major for major in CUDA_MAJORS if library_path(f"crispstream_cuda{major}").exists()]
    known = driver_version // 1000
    for major in built:
        if major <= known:
            return open_cuda_library(library_path(f"crispstream_cuda{major}"))
    if not built:
        raise EngineError("the CUDA kernels are not installed", "install crispstream again, with nvcc on the PATH")
    message = f"the CUDA kernels are built for CUDA {built[-1]}, the driver knows CUDA {known}"
    rebuild = f", or install crispstream again with nvcc {known} on the PATH" if known in CUDA_MAJORS else ""
    raise EngineError(message, f"update the driver{rebuild}")


def open_cuda_library(path: Path) -> ctypes.CDLL:
    """Load the CUDA kernels from ``path``; needs no GPU. Raises EngineError like ``open_library``."""
    library = open_library(path)
    job, sizes, pointer, batch = ctypes.POINTER(Job), ctypes.POINTER(Sizes), ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "crispstream_cuda_unpack": (job, pointer, batch, sizes, pointer, pointer),
        "crispstream_cuda_blend": (job, pointer, batch, sizes, pointer, pointer, pointer, pointer, pointer),
        "crispstream_cuda_statistics": (sizes, batch, pointer, pointer, pointer),
        "crispstream_cuda_capture_begin": (pointer,),
        "crispstream_cuda_capture_end": (pointer, ctypes.POINTER(pointer)),
        "crispstream_cuda_graph_launch": (pointer, pointer),
        "crispstream_cuda_graph_destroy": (pointer,),
    }
    return _declare(library, signatures)


def _declare(library: ctypes.CDLL, signatures: dict[str, tuple[Any, ...]]) -> ctypes.CDLL:
    """Tell ctypes the argument types of functions that return a status."""
    for name, arguments in signatures.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = ctypes.c_int32
    return library
