# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT-RTX: one class, plans from the user's cache, everything allocated at open."""

from __future__ import annotations

import importlib
import logging
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from crispstream import plan as plans
from crispstream.engine.protocol import Graph, PaddedSize, check_padded
from crispstream.errors import EngineError
from crispstream.manifest import PARTS, Manifest, Tensor
from crispstream.plan import Flavour, Gpu, Plan

if TYPE_CHECKING:
    from crispstream.cuda.device import Device
    from crispstream.cuda.memory import Buffer

FEATURES = ("features0", "features1", "features2")
TENSORS_OF = {"encoder": ("packed", *FEATURES, "head")} | dict.fromkeys(PARTS[1:], (*FEATURES, "residual"))
"""Inputs and outputs of each part."""

_MODULE = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_OLDEST = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 4)}
_INSTALL = {
    "tensorrt": "a Jetson has it from JetPack; elsewhere type: pip install tensorrt-cu13 (docs/install.md)",
    "tensorrt-rtx": "type: pip install tensorrt-rtx",
}
_logger = logging.getLogger("crispstream")


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT-RTX: the module, and the logger that outlives everything made with it."""

    flavour: Flavour
    trt: Any
    log: Any

    @property
    def version(self) -> str:
        """As the module says it: "10.3.0"."""
        return str(self.trt.__version__)

    def __str__(self) -> str:
        return f"{plans.LIBRARY[self.flavour]} {self.version}"

    def failure(self, what: str, hint: str = "") -> EngineError:
        """``what`` failed, with what the library logged since the last failure."""
        return EngineError(f"{self} {what}: {self.log.take() or 'it does not say why'}", hint)


def library(flavour: Flavour) -> Library:
    """Import TensorRT or TensorRT-RTX. Touches no GPU. Raises EngineError where it is absent, broken or too old."""
    name, oldest = plans.LIBRARY[flavour], _OLDEST[flavour]
    try:
        trt = importlib.import_module(_MODULE[flavour])
        version = str(trt.__version__)
    except ModuleNotFoundError as error:
        raise EngineError(f"{name} is not installed: no module {error.name}", _INSTALL[flavour]) from error
    except Exception as error:  # a library of it that does not load, a stub without content
        raise EngineError(f"{name} is installed, but does not load: {error}", _INSTALL[flavour]) from error
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < oldest:
        wanted = "{}.{}".format(*oldest)
        raise EngineError(f"{name} {version} is too old, {wanted} or newer is needed", _INSTALL[flavour])
    return Library(flavour, trt, _log_of(trt))


@cache  # the library keeps the first logger that it is given, for good
def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the message of the failure they lead to; the rest is for debugging."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self._errors.append(message)
            _logger.debug("%s: %s", trt.__name__, message)

        def take(self) -> str:
            """The errors since the last call."""
            errors, self._errors = self._errors, []
            return "; ".join(dict.fromkeys(errors))

    return Log()


def gpu_of(device: Device) -> Gpu:
    """What plans depend on."""
    return Gpu(device.name, device.compute_capability, device.multiprocessors, device.driver_version)


def check_supported(found: Library, gpu: Gpu) -> None:
    """Raise EngineError where this TensorRT-RTX has no code for the GPU. TensorRT's plans are built on their GPU."""
    if found.flavour == "tensorrt-rtx" and not hasattr(found.trt.ComputeCapability, gpu.capability.upper()):
        raise EngineError(f"{found} does not run on {gpu.name} ({gpu.capability})", "use TensorRT or torch on this GPU")


def tensor_bytes(tensor: Tensor, size: PaddedSize) -> int:
    """Bytes of an FP16 tensor for one padded size, in the format that its plan gives it."""
    batch, channels, height, width = tensor.sizes(size.padded_width, size.padded_height)
    if tensor.layout == "HWC8":
        channels = math.ceil(channels / 8) * 8
    return batch * channels * height * width * 2


class TensorRtParts:
    """``GpuParts``: three plans with one execution context each, and the tensors between them."""

    def __init__(self, found: Library, runtime: Any, plan: Plan, device: Device, size: PaddedSize) -> None:
        self._library, self._plan, self._device, self._size = found, plan, device, size
        self._buffers: dict[str, Buffer] = {}
        self._contexts: dict[str, Any] = {}
        self._engines: dict[str, Any] = {}
        self._caches: list[tuple[Path, Any]] = []
        device.own(self)
        try:
            for name in ("packed", *FEATURES, "head", *PARTS[1:]):
                tensor = plan.tensors["residual" if name in PARTS else name]
                self._buffers[name] = device.allocate(tensor_bytes(tensor, size))
            for part in PARTS:
                self._open(runtime, part)
        except BaseException as error:
            self.close()
            # The frames below hold engines, which would live, and die in any thread, as long as the error.
            raise error.with_traceback(None) from None
        self.packed, self.head, self.foreground, self.background = (
            self._buffers[name].address for name in ("packed", "head", *PARTS[1:])
        )

    def _open(self, runtime: Any, part: str) -> None:
        data = self._plan.read(part)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self._library.failure(f"refuses the plan {self._plan.folder / self._plan.parts[part].file}")
        self._engines[part] = engine
        self._check(engine, part)
        context = self._context(engine, part)
        if context is None:
            raise self._library.failure(f"cannot open {part}", "is enough GPU memory free?")
        self._contexts[part] = context
        for name in TENSORS_OF[part]:
            shape = self._plan.tensors[name].sizes(self._size.padded_width, self._size.padded_height)
            if engine.get_tensor_mode(name) == self._library.trt.TensorIOMode.INPUT:
                fits = context.set_input_shape(name, shape)
            else:
                fits = tuple(context.get_tensor_shape(name)) == shape
            address = self._buffers[part if name == "residual" else name].address
            if not fits or not context.set_tensor_address(name, address):
                raise self._library.failure(f"does not take {name} with shape {shape} in {part}")

    def _check(self, engine: Any, part: str) -> None:
        """The plan has the tensors that its manifest says: else parts would misread one another."""
        trt = self._library.trt
        found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if found != set(TENSORS_OF[part]):
            raise EngineError(f"the plan of {part} in {self._plan.folder} has the tensors {', '.join(sorted(found))}")
        for name in TENSORS_OF[part]:
            wanted = (trt.DataType.HALF, getattr(trt.TensorFormat, self._plan.tensors[name].layout))
            has = (engine.get_tensor_dtype(name), engine.get_tensor_format(name))
            if has != wanted:
                message = f"{name} is {has[0]} {has[1]} in the plan of {part}, {wanted[0]} {wanted[1]} in its manifest"
                raise EngineError(message, f"remove {self._plan.folder} and build again")

    def _context(self, engine: Any, part: str) -> Any:
        """TensorRT-RTX compiles kernels here, on the user's GPU, and keeps them in a file for this GPU and driver."""
        if self._library.flavour == "tensorrt":
            return engine.create_execution_context()
        trt, device = self._library.trt, self._device
        config = engine.create_runtime_config()
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the caller captures
        cache = config.create_runtime_cache()
        name = f"{part}-{gpu_of(device).capability}-{device.driver_version}.kernels"
        path = self._plan.folder / name
        if path.exists():
            cache.deserialize(path.read_bytes())  # refuses by itself what is of another GPU or driver
        config.set_runtime_cache(cache)
        self._caches.append((path, cache))
        return engine.create_execution_context(config)

    def enqueue(self, part: str, stream: int) -> None:
        """Enqueue one of PARTS on ``stream`` (a CUstream); inside ``capture`` it is recorded. Raises EngineError."""
        context = self._contexts[part]
        if not context.execute_async_v3(stream):
            raise self._library.failure(f"failed in {part}")

    def capture(self, stream: int, record: Callable[[], None]) -> Graph:
        """Record what ``record`` enqueues on ``stream``: kernels and parts that have run once before."""
        from crispstream.cuda import graph

        return graph.record(self._device.kernels, stream, record)

    def close(self) -> None:
        """Free contexts, what they compiled, engines and tensors, in this order. Idempotent."""
        self._device.disown(self)
        _keep(self._caches)
        self._contexts.clear()
        self._caches.clear()
        self._engines.clear()
        while self._buffers:
            self._buffers.popitem()[1].free()


def _keep(caches: list[tuple[Path, Any]]) -> None:
    """Write what was compiled to its files. Never raises: whoever closes has memory to free, whatever has failed."""
    for path, kernels in caches:
        try:
            memory = kernels.serialize()
            if memory is None:
                raise ValueError("the library returned nothing")
            data = bytes(memory)
            if not path.exists() or path.read_bytes() != data:
                partial = path.with_suffix(".partial")
                partial.write_bytes(data)
                partial.replace(path)
        except Exception as error:  # they are compiled again next time
            _logger.debug("cannot keep %s: %s", path, str(error))  # a log may keep an error, and with it this frame


class TensorRtEngine:
    """``GpuEngine``. ``device``: "cuda" or "cuda:N"; ``flavour``: "tensorrt" or "tensorrt-rtx".

    Raises EngineError where the library is absent or too old, the GPU is not one of its, or no plan fits the GPU.
    """

    def __init__(self, manifest: Manifest, device: str = "cuda", flavour: Flavour = "tensorrt") -> None:
        self.name, self.manifest = flavour, manifest
        self._library = library(flavour)
        from crispstream.cuda.worker import Worker

        self.worker = Worker(int(device.partition(":")[2] or 0))
        self._runtime: Any = None
        self._lock = Lock()
        self._closed = False
        try:
            self._gpu = gpu_of(self.worker.device)
            check_supported(self._library, self._gpu)
            plans.find(manifest, flavour, self._library.version, self._gpu)
            self.worker.call(self._open)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._runtime = self._library.trt.Runtime(self._library.log)

    def open_parts(self, size: PaddedSize) -> TensorRtParts:
        """The network for frames of this padded size. In the worker's thread. Raises EngineError: no plan fits."""
        if self._closed:
            raise EngineError("this engine is closed")
        check_padded(self.manifest, size)
        wanted = (size.padded_width, size.padded_height)
        plan = plans.find(self.manifest, self._library.flavour, self._library.version, self._gpu, wanted)
        return TensorRtParts(self._library, self._runtime, plan, self.worker.device, size)

    def close(self) -> None:
        """Free the engine and end the worker; a second call does nothing. Any thread. Parts are closed before."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with suppress(EngineError):  # the worker ends by itself with the program
            self.worker.call(self._drop)
        self.worker.close()

    def _drop(self) -> None:
        self._runtime = None
