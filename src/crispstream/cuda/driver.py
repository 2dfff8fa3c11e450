# SPDX-License-Identifier: Apache-2.0
"""What the NVIDIA driver says, and the one place where pycuda is imported."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from crispstream.cuda.libcuda import NO_DEVICE, error_text, libcuda
from crispstream.errors import EngineError

MINIMUM_DRIVER = 12000
"""As ``cuDriverGetVersion`` counts: CUDA 12.0, driver 525. JetPack 6 and TensorRT 10 bring later ones."""
MINIMUM_PYCUDA = (2022, 2)
"""The first that builds against CUDA 12's headers (its issue 402); everything used here is older."""
REBUILD = "type: pip install --force-reinstall --no-cache-dir --no-deps --no-binary pycuda pycuda"
INSTALL = "see docs/gpu.md, or type: pip install pycuda"
INSTALL_DRIVER = "type: sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver), then restart"

_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76  # CU_DEVICE_ATTRIBUTE_...


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``compute_capability``: (major, minor). ``integrated``: it shares its memory with the processor."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    integrated: bool


@dataclass(frozen=True, slots=True)
class Driver:
    """What was found. ``version``: 13000 for CUDA 13.0, 0 without a driver. ``problem``: why it is of no use, or ""."""

    version: int
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    hint: str = ""


@cache
def probe() -> Driver:
    """Ask the driver, once. Never raises, needs no pycuda and makes no context; ``CUDA_VISIBLE_DEVICES`` holds.

    The driver's state does not survive a fork: a child process that wants the GPU is to be spawned.
    """
    try:
        library = libcuda()
    except OSError:
        return Driver(0, (), "no NVIDIA driver: libcuda.so.1 is not found", INSTALL_DRIVER)
    except AttributeError:
        return Driver(0, (), "the NVIDIA driver is older than CUDA 12.0", INSTALL_DRIVER)
    if status := library.cuInit(0):
        return Driver(_number("cuDriverGetVersion"), (), *_start_failure(status))
    version = _number("cuDriverGetVersion")
    if version < MINIMUM_DRIVER:
        message = f"the NVIDIA driver is too old: CUDA {version_text(version)}, at least 12.0 is needed"
        return Driver(version, (), message, INSTALL_DRIVER)
    gpus = tuple(_gpu(index) for index in range(_number("cuDeviceGetCount")))
    return Driver(version, gpus) if gpus else Driver(version, (), *_start_failure(NO_DEVICE))


@cache
def load() -> ModuleType:
    """``pycuda.driver``, initialised. Raises EngineError: driver or pycuda missing, too old, or not for each other."""
    found = probe()
    if found.problem:
        raise EngineError(found.problem, found.hint)
    try:
        package, drv = import_module("pycuda"), import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name != "pycuda":
            raise EngineError(f"pycuda needs the module {error.name}", f"type: pip install {error.name}") from None
        raise EngineError("pycuda is not installed", INSTALL) from None
    except ImportError as error:
        # "undefined symbol: cuCtxCreate_v4": its CUDA headers name functions that this driver does not have.
        if "undefined symbol: cu" in str(error):
            message = f"pycuda was built for another CUDA than the driver's {version_text(found.version)}: {error}"
            raise EngineError(message, REBUILD) from None
        raise EngineError(f"pycuda cannot be imported: {error}", REBUILD) from None
    if package.VERSION < MINIMUM_PYCUDA:
        raise EngineError(f"pycuda {package.VERSION_TEXT} is too old", "type: pip install --upgrade pycuda")
    built = drv.get_version()
    if built[0] * 1000 > found.version:
        message = f"pycuda was built for CUDA {built[0]}.{built[1]}, the driver has {version_text(found.version)}"
        raise EngineError(message, REBUILD)
    drv.init()
    return drv


def guard(drv: ModuleType, function: Any, *arguments: Any) -> Any:
    """Call ``function``; what pycuda raises becomes an EngineError.

    The error keeps no reference to the arguments: an exception that travels to another thread must not take pycuda
    objects along, which can only be freed in their own.
    """
    try:
        return function(*arguments)
    except drv.Error as error:
        message = f"CUDA: {error}"
    del function, arguments
    raise EngineError(message)


def version_text(version: int) -> str:
    """ "13.0" for 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _start_failure(status: int) -> tuple[str, str]:
    """What is wrong, and what to do, when the driver does not start or sees no GPU."""
    if status == NO_DEVICE:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            return f"no GPU is visible: CUDA_VISIBLE_DEVICES is '{hidden}'", "type: unset CUDA_VISIBLE_DEVICES"
        return "the NVIDIA driver sees no GPU", "nvidia-smi says more; in a container: docker run --gpus all"
    return f"the NVIDIA driver does not start: {error_text(status)}", "type: nvidia-smi; after an update, restart"


def _gpu(index: int) -> Gpu:
    library, device, name = libcuda(), ctypes.c_int(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device.value)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), which, device.value)
        return value.value

    capability = attribute(_MAJOR), attribute(_MINOR)
    return Gpu(index, name.value.decode(), capability, attribute(_MULTIPROCESSORS), bool(attribute(_INTEGRATED)))


def _number(function: str) -> int:
    value = ctypes.c_int()
    getattr(libcuda(), function)(ctypes.byref(value))
    return value.value
