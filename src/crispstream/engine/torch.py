# SPDX-License-Identifier: Apache-2.0
"""PyTorch: the FP32 reference on the CPU, and FP16 on a GPU where TensorRT is absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crispstream.cuda.graph import exclusive
from crispstream.cuda.worker import Worker
from crispstream.engine.protocol import Engine, GpuEngine, PaddedSize, PartsSession, check_padded
from crispstream.errors import EngineError
from crispstream.manifest import PARTS, Manifest
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import load_network
from crispstream.threads import cpu_quota


def open_torch(manifest: Manifest, device: str, threads: int | None = None) -> Engine | GpuEngine:
    """The engine for "cpu", "cuda" or "cuda:N". ``threads``: of the CPU. Raises EngineError."""
    if device == "cpu":
        return TorchEngine(manifest, threads)
    return TorchGpuEngine(manifest, int(device.partition(":")[2] or 0))


class TorchSession(PartsSession):
    """The parts in FP32; features stay torch tensors."""

    def __init__(self, manifest: Manifest, size: PaddedSize, net: HumanAwareNet) -> None:
        super().__init__(manifest, size)
        self._net = net
        self._features: tuple[torch.Tensor, ...] = ()

    def _run_part(self, part: str) -> None:
        try:
            with torch.inference_mode():
                if part == "encoder":
                    *features, out = self._net.encoder(torch.from_numpy(self.packed))
                    self._features = tuple(features)
                else:
                    out = self._net.get_submodule(part)(*self._features)
                torch.from_numpy(self.head if part == "encoder" else self._residuals[part]).copy_(out)
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed in {part}: {error}") from error


class TorchEngine:
    """The CPU in FP32. ``threads``: None takes the CPU quota.

    PyTorch has one number of threads for the whole process; opening this engine sets it.
    """

    name = "torch"

    def __init__(self, manifest: Manifest, threads: int | None = None) -> None:
        torch.set_num_threads(threads or cpu_quota())
        self.manifest = manifest
        self._net: HumanAwareNet | None = load_network(preset(manifest.preset), manifest.weights_path)

    def session(self, size: PaddedSize) -> TorchSession:
        """A session for frames of this padded size. Raises EngineError."""
        if self._net is None:
            raise EngineError("this engine is closed")
        check_padded(self.manifest, size)
        return TorchSession(self.manifest, size, self._net)

    def close(self) -> None:
        """Let go of the network."""
        self._net = None


class TorchGpuEngine:
    """FP16, channels-last, on GPU ``index``: the network of ``GpuRunner`` where TensorRT is absent."""

    name = "torch"

    def __init__(self, manifest: Manifest, index: int) -> None:
        if not torch.cuda.is_available():
            raise EngineError(f"PyTorch {torch.__version__} finds no CUDA device", "use --device cpu")
        self.manifest = manifest
        self.worker = Worker(index)
        try:
            self._net: HumanAwareNet | None = self.worker.call(self._load, index)
        except BaseException:
            self.worker.close()
            raise

    def open_parts(self, size: PaddedSize) -> TorchParts:
        """The network for frames of this padded size. In the worker's thread. Raises EngineError."""
        if self._net is None:
            raise EngineError("this engine is closed")
        check_padded(self.manifest, size)
        try:
            return TorchParts(self.manifest, size, self._net, self._device)
        except RuntimeError as error:
            raise EngineError(f"PyTorch cannot open {self.manifest.preset}: {error}") from error

    def close(self) -> None:
        """Free the network and end the worker; a second call does nothing."""
        self._net = None
        self.worker.close()

    def _load(self, index: int) -> HumanAwareNet:
        self._device = torch.device("cuda", index)
        try:
            torch.cuda.set_device(self._device)  # of the worker's thread
            net: Any = load_network(preset(self.manifest.preset), self.manifest.weights_path)
            found: HumanAwareNet = net.half().to(self._device, memory_format=torch.channels_last)
            return found
        except (RuntimeError, AssertionError) as error:  # a device number that is not there
            raise EngineError(f"PyTorch cannot use {self._device}: {error}") from error


def _external(stream: int, device: torch.device) -> Any:
    """A CUstream as PyTorch's."""
    return torch.cuda.ExternalStream(stream, device=device)  # type: ignore[no-untyped-call]


class TorchParts:
    """A ``GpuParts`` whose tensors and intermediate memory are PyTorch's."""

    def __init__(self, manifest: Manifest, size: PaddedSize, net: HumanAwareNet, device: torch.device) -> None:
        self._net, self._device = net, device
        self._features: tuple[torch.Tensor, ...] = ()
        shapes = {name: t.sizes(size.padded_width, size.padded_height) for name, t in manifest.tensors.items()}
        shapes |= dict.fromkeys(PARTS[1:], shapes["residual"])
        self._tensors = {
            name: torch.zeros(shapes[name], dtype=torch.half, device=device) for name in ("packed", "head", *PARTS[1:])
        }
        self.packed, self.head, self.foreground, self.background = (t.data_ptr() for t in self._tensors.values())
        # One pool for all graphs: they run one after the other and hand nothing over but the tensors above.
        self._pool = torch.cuda.graph_pool_handle()

    def enqueue(self, part: str, stream: int) -> None:
        """Enqueue one of PARTS on ``stream``. Raises EngineError."""
        try:
            with torch.inference_mode(), torch.cuda.stream(_external(stream, self._device)):
                if part == "encoder":
                    packed = self._tensors["packed"].contiguous(memory_format=torch.channels_last)
                    *features, out = self._net.encoder(packed)
                    self._features = tuple(features)
                else:
                    out = self._net.get_submodule(part)(*self._features)
                self._tensors["head" if part == "encoder" else part].copy_(out)
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed in {part}: {error}") from error

    def capture(self, stream: int, record: Callable[[], None]) -> TorchGraph:
        """Record what ``record`` enqueues on ``stream``; PyTorch's allocator has to know of it."""
        graph, external = torch.cuda.CUDAGraph(), _external(stream, self._device)
        try:
            with (
                exclusive(),
                torch.cuda.graph(graph, self._pool, stream=external, capture_error_mode="thread_local"),
            ):
                record()
        except RuntimeError as error:
            raise EngineError(f"PyTorch cannot capture a graph: {error}") from error
        return TorchGraph(graph, self._device)

    def close(self) -> None:
        """Let go of the tensors. Idempotent."""
        self._tensors, self._features = {}, ()


class TorchGraph:
    """A ``torch.cuda.CUDAGraph``."""

    def __init__(self, graph: torch.cuda.CUDAGraph, device: torch.device) -> None:
        self._graph: torch.cuda.CUDAGraph | None = graph
        self._device = device

    def launch(self, stream: int) -> None:
        """Enqueue the recorded work on ``stream``."""
        if self._graph is None:
            raise EngineError("this graph is closed")
        with torch.cuda.stream(_external(stream, self._device)):
            self._graph.replay()

    def close(self) -> None:
        """Free the graph. Idempotent."""
        self._graph = None
