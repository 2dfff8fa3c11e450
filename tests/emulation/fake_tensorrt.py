# SPDX-License-Identifier: Apache-2.0
"""TensorRT's runtime on an emulated machine: plans are ONNX graphs, and ONNX Runtime computes them in stream order.

It offers what ``crispstream.engine.tensorrt`` uses, under TensorRT's names, and keeps its rules: everything is made in
a thread with a context, a plan belongs to some GPUs, an execution context needs every shape and address.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from emulation.fake_pycuda import Bound, Machine

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Severity(enum.IntEnum):
    """``ILogger.Severity``."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    """Base class of loggers."""

    Severity = Severity


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.IntEnum):
    FLOAT, HALF = range(2)


class TensorFormat(enum.IntEnum):
    LINEAR, HWC8 = 0, 2


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY, EAGER, NONE = range(3)


class CudaGraphStrategy(enum.IntEnum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class ComputeCapability(enum.IntEnum):
    SM75, SM86, SM89, SM120 = 75, 86, 89, 120


class IRuntimeCache:
    """The kernels that were compiled; one of another GPU is refused."""

    def __init__(self, capability: str) -> None:
        self._content = f"kernels for {capability}".encode()
        self.accepted: bool | None = None

    def deserialize(self, blob: bytes) -> bool:
        self.accepted = blob == self._content
        return self.accepted

    def serialize(self) -> memoryview:
        return memoryview(self._content)


class IRuntimeConfig:
    """Set before an execution context is made."""

    def __init__(self, capability: str) -> None:
        self._capability = capability
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._capability)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class IExecutionContext(Bound):
    """Runs one part. What it enqueues keeps the addresses that were set then, as a captured launch does."""

    kind = "execution context"

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__()
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self.freed()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self._engine.takes(name, shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name] if name in self._shapes else self._engine.output_shape(name, self._shapes)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.here()
        arrays = {}
        for name, address in self._addresses.items():
            batch, channels, height, width = self.get_tensor_shape(name)
            if self._engine.get_tensor_format(name) == TensorFormat.HWC8:
                assert channels % 8 == 0, "the fake knows no padded channels"
                array = _memory(address, (batch, height, width, channels)).transpose(0, 3, 1, 2)
            else:
                array = _memory(address, (batch, channels, height, width))
            arrays[name] = array
        if set(arrays) != set(self._engine.names):
            return False

        # Without a reference to the engine, which keeps the callback: a cycle would outlive the engine.
        session, inputs, outputs = self._engine.session, self._engine.inputs, self._engine.outputs

        def compute(_: object) -> None:
            values = session.run(outputs, {name: np.ascontiguousarray(arrays[name]) for name in inputs})
            for name, value in zip(outputs, values, strict=True):
                arrays[name][:] = value

        callback = _CALLBACK(compute)
        self._engine.enqueued.append(callback)  # a graph may replay it as long as the engine lives
        self.machine.library.emu_host_call(callback, None, ctypes.c_void_p(stream_handle))
        return True


class ICudaEngine(Bound):
    """One part: its graph in ONNX Runtime."""

    kind = "engine"

    def __init__(self, session: Any, layouts: dict[str, str], capability: str) -> None:
        super().__init__()
        self.session, self._layouts, self._capability = session, layouts, capability
        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self.names = self.inputs + self.outputs
        self.enqueued: list[Any] = []
        self.config: IRuntimeConfig | None = None

    def __del__(self) -> None:
        if hasattr(self, "session"):
            self.freed()

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.HALF

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self._layouts[name]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._capability)

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext:
        self.here()
        self.config = runtime_config
        return type("IExecutionContext", (IExecutionContext,), {"machine": self.machine})(self)

    def takes(self, name: str, shape: Sequence[int]) -> bool:
        wanted = next(value.shape for value in self.session.get_inputs() if value.name == name)
        return len(shape) == len(wanted) and all(isinstance(w, str) or w == n for n, w in zip(shape, wanted))  # noqa: B905

    def output_shape(self, name: str, inputs: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """From the named dimensions, "height_8": the pixels that the inputs say, over 8."""
        shapes = {v.name: v.shape for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        pixels = {
            d.partition("_")[0]: n * int(d.partition("_")[2])
            for given, shape in inputs.items()
            for d, n in zip(shapes[given], shape, strict=True)
            if isinstance(d, str)
        }
        return tuple(
            d if isinstance(d, int) else pixels[d.partition("_")[0]] // int(d.partition("_")[2]) for d in shapes[name]
        )


class Runtime(Bound):
    """Deserialises what ``fake_plan`` makes."""

    kind = "TensorRT runtime"

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def __del__(self) -> None:
        if hasattr(self, "_logger"):
            self.freed()

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self.here()
        header, _, graph = serialized_engine.partition(b"\n")
        try:
            facts = json.loads(header)
            session = _session(graph)
        except Exception as error:
            self._logger.log(Severity.ERROR, f"deserializeCudaEngine: the plan is corrupt ({type(error).__name__})")
            return None
        here = "sm{}{}".format(*self.machine.gpus[self.context.device].compute_capability)
        if here not in facts["capabilities"]:
            self._logger.log(Severity.ERROR, f"The engine plan file was not built for {here}")
            return None
        made = type("ICudaEngine", (ICudaEngine,), {"machine": self.machine})
        return made(session, facts["layouts"], here)


def fake_plan(graph: bytes, layouts: dict[str, str], capabilities: Sequence[str]) -> bytes:
    """A plan of an FP16 ONNX graph. ``layouts``: format of each input and output, "LINEAR" or "HWC8"."""
    return json.dumps({"layouts": layouts, "capabilities": list(capabilities)}).encode() + b"\n" + graph


def fake_module(machine: Machine, name: str, version: str) -> ModuleType:
    """The module ``name``, "tensorrt" or "tensorrt_rtx", on this machine, for ``sys.modules``."""
    module = ModuleType(name)
    machine.library.emu_host_call.argtypes = (_CALLBACK, ctypes.c_void_p, ctypes.c_void_p)
    machine.library.emu_host_call.restype = ctypes.c_int
    kinds = (ILogger, TensorIOMode, DataType, TensorFormat, DynamicShapesKernelSpecializationStrategy)
    kinds = (*kinds, CudaGraphStrategy, ComputeCapability)
    vars(module).update({kind.__name__: kind for kind in kinds})
    vars(module).update(__version__=version, Runtime=type("Runtime", (Runtime,), {"machine": machine}))
    return module


def _session(graph: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _memory(address: int, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    nbytes = int(np.prod(shape)) * 2
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), np.float16).reshape(shape)
