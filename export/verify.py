# SPDX-License-Identifier: Apache-2.0
"""Does every way of running an engine give what the FP32 network gives? The figures go into the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.errors import EngineError
from crispstream.manifest import load
from crispstream.model.presets import preset as find_preset
from crispstream.model.weights import load_network
from crispstream.runners.protocol import geometry_of
from crispstream.threads import cpu_quota

from .frames import frames, real_pictures, stress_frames
from .fused import time_ratio
from .parity import Size, float32_errors, runtime_errors
from .precision import half_errors, largest_activation

SIZES: tuple[Size, ...] = ((641, 361), (640, 360), (320, 180), (33, 17), (16, 16))
"""Width and height; all but the last need padding."""
HALF_SIZE: Size = (320, 180)
TIMED_SIZE: Size = (640, 360)

PARITY_BOUND = 2e-4
"""Largest absolute difference from FP32 PyTorch, on [0, 1]."""
CODE_BOUND = 1
"""The same for finished 8-bit frames: a value may fall on the other side of a rounding step, no more."""
ACTIVATION_BOUND = 8192.0
"""Largest absolute activation: an eighth of FP16's range."""
HALF_BOUND = 2.0
"""How many times the error of plain FP16 arithmetic an FP16 graph may have."""


def verify(
    preset: str | Path,
    write: bool = True,
    images: Iterable[Path] = (),
    sizes: Sequence[Size] = SIZES,
    threads: int | None = None,
) -> dict[str, Any]:
    """Compare FP32 PyTorch with ONNX Runtime on the parts, on the fused graph, and with the whole runtime path.

    ``preset``: name or folder. ``images``: real pictures (default: see ``real_pictures``). ``write`` puts the figures
    into the manifest. ``threads``: PyTorch's; None takes the CPU quota. Returns the figures: absolute errors on [0, 1],
    8-bit code differences, FP16 errors, the largest activation, and the parts' time over the fused graph's, which is
    recorded but not judged: it depends on what else runs here.
    Raises EngineError where a bound is broken, InputError for a picture, OutputError where nothing can be written.
    """
    engine = load(preset)
    torch.set_num_threads(threads or cpu_quota())
    net = load_network(find_preset(engine.preset), engine.weights_path)
    pictures = real_pictures(images)
    figures: dict[str, Any] = {
        "weights_sha256": engine.weights.sha256,
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "sizes": [f"{width}x{height}" for width, height in sizes],
        "frames": [*pictures, "noise"],
        "float32_error": float32_errors(engine, net, pictures, sizes),
        "runtime_codes": runtime_errors(engine, net, pictures, sizes),
        "float16_error": half_errors(engine, net, frames(pictures, *HALF_SIZE)),
        "largest_activation": largest_activation(net, stress_frames(pictures, *HALF_SIZE)),
        "parts_to_fused_time": time_ratio(OnnxRuntimeEngine(engine), geometry_of(engine, TIMED_SIZE)),
    }
    if broken := broken_bounds(figures):
        raise EngineError(f"{engine.folder} does not compute what PyTorch computes: {'; '.join(broken)}")
    if write:
        replace(engine, parity=figures).write()
    return figures


def broken_bounds(figures: dict[str, Any]) -> list[str]:
    """One line for every figure of ``verify`` that is over its bound, or NaN."""
    half, activation = figures["float16_error"], figures["largest_activation"]
    checks = [(f"{name}: error", error, PARITY_BOUND) for name, error in figures["float32_error"].items()]
    checks += [
        (f"{name}: code difference", codes["max"], CODE_BOUND) for name, codes in figures["runtime_codes"].items()
    ]
    checks.append(("float16 graph: error", half["graph"], HALF_BOUND * half["plain"]))
    checks.append((f"{activation['layer']}: activation", activation["value"], ACTIVATION_BOUND))
    return [f"{what} {value:.3g}, at most {bound:.3g}" for what, value, bound in checks if not value <= bound]
