# SPDX-License-Identifier: Apache-2.0
"""PyTorch on the CPU or a CUDA GPU, FP32: the reference, and a way to a GPU without TensorRT."""

from __future__ import annotations

import torch

from crispstream.engine.protocol import PaddedSize, PartsSession, check_padded
from crispstream.errors import EngineError
from crispstream.manifest import Manifest
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import load_network
from crispstream.threads import cpu_quota


class TorchSession(PartsSession):
    """Copies in and out of the device around every part; features stay there."""

    def __init__(self, manifest: Manifest, size: PaddedSize, net: HumanAwareNet, device: torch.device) -> None:
        super().__init__(manifest, size)
        self._net, self._device = net, device
        self._features: tuple[torch.Tensor, ...] = ()

    def _run_part(self, part: str) -> None:
        try:
            with torch.inference_mode():
                if part == "encoder":
                    *features, out = self._net.encoder(torch.from_numpy(self.packed).to(self._device))
                    self._features = tuple(features)
                else:
                    out = self._net.get_submodule(part)(*self._features)
                torch.from_numpy(self.head if part == "encoder" else self._residuals[part]).copy_(out)
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed in {part}: {error}") from error


class TorchEngine:
    """``device``: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:N". ``threads``: None takes the CPU quota.

    PyTorch has one number of threads for the whole process; opening this engine sets it.
    """

    name = "torch"

    def __init__(self, manifest: Manifest, device: str = "auto", threads: int | None = None) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineError(f"PyTorch {torch.__version__} finds no CUDA device", "use --device cpu")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads or cpu_quota())
        self.manifest = manifest
        self._device = torch.device(device)
        self._net: HumanAwareNet | None = load_network(preset(manifest.preset), manifest.weights_path)
        try:
            self._net.to(self._device)
        except (RuntimeError, AssertionError) as error:  # a device number that is not there
            raise EngineError(f"PyTorch cannot use {device}: {error}") from error

    def session(self, size: PaddedSize) -> TorchSession:
        """A session for frames of this padded size. Raises EngineError."""
        if self._net is None:
            raise EngineError("this engine is closed")
        check_padded(self.manifest, size)
        return TorchSession(self.manifest, size, self._net, self._device)

    def close(self) -> None:
        """Let go of the network."""
        self._net = None
