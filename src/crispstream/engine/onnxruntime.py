# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the default engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file

from crispstream.engine.protocol import Array, PaddedSize, PartsSession, check_padded
from crispstream.errors import EngineError
from crispstream.kernels import bindings
from crispstream.manifest import FACTORS, PARTS, Manifest
from crispstream.threads import cpu_quota

QUIET = 3
# A thread costs 30 to 60 us to start, and the last step of a branch some 0.5 ms for so many of nano's pixels.
PIXELS_PER_THREAD = 16_000


def open_graph(
    path: Path, manifest: Manifest, size: PaddedSize, threads: int, weights: dict[str, Array] | None = None
) -> Any:
    """An ``InferenceSession`` of one graph for one padded size. Raises EngineError where ONNX Runtime refuses it.

    The size is fixed because ONNX Runtime fuses the additions of skip connections only between shapes that it knows to
    be equal; the sessions of a preset open in some 20 ms. ``weights``: values of the initialisers that the graph keeps
    in another file. ONNX Runtime would find them itself, but not where the two are links into different folders.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # One block for a whole run would be laid out without what one layer leaves to the next: 600 instead of 370 bytes a
    # pixel in nano, and no faster (0.998 to 1.02 of the time at 640x360, 1.002 to 1.004 at 1280x720, in turns).
    options.enable_mem_pattern = False
    # Three sessions take turns. Threads that spin while they wait would take the processors from the next one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in _named_dimensions(manifest, size).items():
        options.add_free_dimension_override_by_name(name, value)
    values = [ort.OrtValue.ortvalue_from_numpy(value) for value in (weights or {}).values()]
    options.add_external_initializers(list(weights or {}), values)
    try:
        # Without fallback: it prints on standard output, and there is nothing to fall back to.
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        message = f"ONNX Runtime {ort.__version__} cannot load {path}: {error}"
        raise EngineError(message, "try --engine-backend torch, or install another onnxruntime") from error


def _named_dimensions(manifest: Manifest, size: PaddedSize) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in manifest.tensors.values():
        sizes = tensor.sizes(size.padded_width, size.padded_height)
        found |= {d: n for d, n in zip(tensor.shape, sizes, strict=True) if isinstance(d, str)}
    return found


def bind(session: Any, arrays: dict[str, Array]) -> Any:
    """Bind every input and output of ``session`` to memory that exists; the arrays must outlive the binding."""
    binding = session.io_binding()
    for entries, bind_one in ((session.get_inputs(), binding.bind_input), (session.get_outputs(), binding.bind_output)):
        for entry in entries:
            array = arrays[entry.name]
            bind_one(entry.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding


class OnnxRuntimeSession(PartsSession):
    """The three graphs, bound to this session's arrays: a run allocates nothing of its own.

    ``last_steps``: of the branches whose graphs are those of FACTORS, with at most ``threads`` of our own.
    """

    def __init__(
        self,
        manifest: Manifest,
        size: PaddedSize,
        parts: dict[str, Any],
        last_steps: Mapping[str, LastStep],
        threads: int,
    ) -> None:
        super().__init__(manifest, size)
        self._parts, self._last_steps = parts, last_steps
        self._shared = {name: self._allocate(name) for name in manifest.tensors if name.startswith("features")}
        if last_steps:
            (n, channels, *_), (*_, height, width) = (self._shared[name].shape for name in ("features0", "features1"))
            # One for both branches: it is read before the next one writes it.
            self._shared["factors"] = np.zeros((n, channels, height, width), np.float32)
        self._last_threads = max(1, min(threads, size.padded_width * size.padded_height // PIXELS_PER_THREAD))
        ends = {"packed": self.packed, "head": self.head}
        residual = {part: {"residual": array} for part, array in self._residuals.items()}
        self._bindings = {
            part: bind(session, {**self._shared, **ends, **residual.get(part, {})}) for part, session in parts.items()
        }

    def _run_part(self, part: str) -> None:
        try:
            self._parts[part].run_with_iobinding(self._bindings[part])
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed in {part}: {error}") from error
        if last := self._last_steps.get(part):
            features, factors, out = self._shared["features0"], self._shared["factors"], self._residuals[part]
            bindings.residual(features, factors, last.weight, last.bias, out, self._last_threads)


class LastStep(NamedTuple):
    """What ``bindings.residual`` needs besides features and factors."""

    weight: Array
    bias: Array


class _Size(NamedTuple):
    padded_width: int
    padded_height: int


class OnnxRuntimeEngine:
    """``threads``: None takes the CPU quota. The graphs of the last size stay open, so that its sessions share them.

    In FP32 the last step of a branch is our own kernel where it is a product and a convolution to few channels: in nano
    two fifths of a branch's arithmetic, for which ONNX Runtime pads the channels and writes and reads the product.
    """

    name = "onnxruntime"

    def __init__(self, manifest: Manifest, threads: int | None = None) -> None:
        self.manifest = manifest
        self.threads = threads or cpu_quota()
        self._lock = Lock()
        self._weights = load_file(manifest.weights_path)
        self._last_steps = self._own_last_steps()
        self._open: tuple[tuple[int, int], dict[str, Any]] | None = None
        self._closed = False
        self.session(_Size(manifest.multiple, manifest.multiple))  # shows now whether the graphs load

    def session(self, size: PaddedSize) -> OnnxRuntimeSession:
        """A session for frames of this padded size. Raises EngineError."""
        check_padded(self.manifest, size)
        key = (size.padded_width, size.padded_height)
        with self._lock:
            if self._closed:
                raise EngineError("this engine is closed")
            if self._open is None or self._open[0] != key:
                self._open = (key, {part: self._open_part(part, size) for part in PARTS})
            return OnnxRuntimeSession(self.manifest, size, self._open[1], self._last_steps, self.threads)

    def _own_last_steps(self) -> dict[str, LastStep]:
        tensors = self.manifest.tensors
        if tensors["features0"].dtype != "float32":
            return {}
        channels, outputs = tensors["features0"].shape[1], tensors["residual"].shape[1]
        steps = {}
        for part in (part for part, graph in FACTORS.items() if graph in self.manifest.graphs):
            weight, bias = (self._weights.pop(f"{part}.out.{name}", None) for name in ("weight", "bias"))
            if weight is None or bias is None or (*weight.shape, *bias.shape) != (outputs, channels, 3, 3, outputs):
                message = f"{self.manifest.weights_path} has no {part}.out of {channels} to {outputs} channels"
                raise EngineError(message, "install crispstream again, or export the engine again")
            steps[part] = LastStep(weight.astype(np.float32), bias.astype(np.float32))
        return steps

    def _open_part(self, part: str, size: PaddedSize) -> Any:
        weights = {name: value for name, value in self._weights.items() if name.startswith(f"{part}.")}
        path = self.manifest.path(FACTORS[part] if part in self._last_steps else part)
        return open_graph(path, self.manifest, size, self.threads, weights)

    def close(self) -> None:
        """Let go of the graphs; sessions that are still held keep theirs until they are dropped."""
        with self._lock:
            self._closed, self._open = True, None
