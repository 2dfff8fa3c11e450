# SPDX-License-Identifier: Apache-2.0
"""How far engines and the runtime path are from the FP32 network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from crispstream.deblurrer import Deblurrer
from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.engine.protocol import EngineSession
from crispstream.frame import Frame
from crispstream.kernels import reference
from crispstream.manifest import Manifest
from crispstream.model.network import HumanAwareNet, Output
from crispstream.model.pixels import blend, pack, pad_to_multiple
from crispstream.runners.protocol import geometry_of

from .frames import Rgb, bgr_frame, frames, i420_frame
from .fused import FusedSession, fused_graph

Size = tuple[int, int]


def image_tensor(rgb: Rgb) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return torch.tensor(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None] / 255


@torch.no_grad()
def run_network(net: HumanAwareNet, image: Tensor) -> Output:
    """The specification: the whole function in FP32."""
    output: Output = net(image)
    return output


def run_session(session: EngineSession | FusedSession, image: Tensor, engine: Manifest) -> Output:
    """What an engine makes of the picture; pack and blend in torch FP32, so that the engine alone is seen."""
    session.packed[:] = pack(pad_to_multiple(image, engine.multiple), engine.pack).numpy()
    session.run()
    assert session.foreground is not None and session.background is not None
    head, foreground, background = (
        torch.from_numpy(a.astype(np.float32)) for a in (session.head, session.foreground, session.background)
    )
    return Output(blend(image, head, foreground, background, engine.pack), head, foreground, background)


def largest_difference(spec: Output, found: Output) -> float:
    """Over the picture, the head and both residuals; NaN where one holds NaN."""
    return float(np.max([(a - b).abs().max() for a, b in zip(spec, found, strict=True)]))


def float32_errors(
    engine: Manifest, net: HumanAwareNet, pictures: dict[str, Rgb], sizes: Sequence[Size]
) -> dict[str, float]:
    """Largest absolute difference, on [0, 1], of ONNX Runtime on the parts and on the fused graph."""
    parts, path = OnnxRuntimeEngine(engine), fused_graph(engine)
    errors: dict[str, list[float]] = {"parts": [], "fused": []}
    for size in sizes:
        geometry = geometry_of(engine, size)
        sessions: dict[str, EngineSession | FusedSession] = {
            "parts": parts.session(geometry),
            "fused": FusedSession(path, engine, geometry, parts.threads),
        }
        for rgb in frames(pictures, *size).values():
            image = image_tensor(rgb)
            spec = run_network(net, image)
            for name, session in sessions.items():
                errors[name].append(largest_difference(spec, run_session(session, image, engine)))
    return {name: float(np.max(found)) for name, found in errors.items()}


def runtime_errors(
    engine: Manifest, net: HumanAwareNet, pictures: dict[str, Rgb], sizes: Sequence[Size]
) -> dict[str, dict[str, float]]:
    """8-bit code differences of ``Deblurrer`` from the specification: the largest, and the share of differing samples.

    BGR24 frames against the torch module, whole, rounded. I420 frames, whose conversions torch does not have, against
    the NumPy twin of the kernels around the torch parts.
    """
    paths: dict[str, tuple[Callable[[Rgb], Frame], Callable[[Frame], Frame]]] = {
        "bgr24": (bgr_frame, lambda frame: _expected_bgr(net, frame)),
        "i420": (i420_frame, lambda frame: _expected_by_twin(engine, net, frame)),
    }
    figures = {}
    with Deblurrer(str(engine.folder.resolve()), "cpu", backend="onnxruntime") as deblurrer:
        for name, (make, expect) in paths.items():
            differences = []
            for size in sizes:
                for rgb in frames(pictures, *size).values():
                    frame = make(rgb)
                    pairs = zip(deblurrer(frame).planes, expect(frame).planes, strict=True)
                    differences += [np.abs(a.astype(np.int16) - b).ravel() for a, b in pairs]
            every = np.concatenate(differences)
            figures[name] = {"max": float(every.max()), "share": float((every > 0).mean())}
    return figures


def _expected_bgr(net: HumanAwareNet, frame: Frame) -> Frame:
    image = run_network(net, image_tensor(frame.planes[0][..., ::-1])).image[0].permute(1, 2, 0)
    codes = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return frame.with_planes((np.ascontiguousarray(codes[..., ::-1]),))


@torch.no_grad()
def _expected_by_twin(engine: Manifest, net: HumanAwareNet, frame: Frame) -> Frame:
    geometry, out = geometry_of(engine, (frame.width, frame.height)), frame.empty_like()
    packed = np.empty(geometry.packed_shape, np.float32)
    reference.unpack(frame, geometry, packed)
    *features, head = net.encoder(torch.from_numpy(packed))
    residuals = (net.foreground(*features).numpy(), net.background(*features).numpy())
    reference.blend(frame, geometry, head.numpy(), *residuals, out)
    return out
