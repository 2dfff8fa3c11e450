# SPDX-License-Identifier: Apache-2.0
"""Does every engine on a GPU give what the FP32 network gives, as far as FP16 can?"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crispstream.deblurrer import Deblurrer
from crispstream.engine.select import ON_GPU, EngineChoice
from crispstream.errors import EngineError
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset as find_preset
from crispstream.model.weights import load_network

from .frames import Rgb, bgr_frame, frames, real_pictures
from .parity import Size, image_tensor, run_network
from .verify import HALF_BOUND

ROUNDING = 1.0
"""Codes that an engine may err on top of HALF_BOUND: both pictures are rounded to 8 bits."""


def verify_gpu(preset: str | Path, device: str, size: Size, images: Iterable[Path] = ()) -> dict[str, Any]:
    """Whole frames of ``size`` through every engine that opens on ``device``, against FP32 PyTorch on the CPU.

    Returns, for each backend, the largest difference in 8-bit codes, the share of samples that differ and how many
    residual values were not finite, or why it does not open; and the largest error of ``model.half()``, "plain".
    ``images`` as for ``verify``. Raises EngineError where no engine opens or one is off by more than FP16 explains.
    """
    engine = EngineChoice(preset, device).manifest  # a GPU that is not there is told before minutes of computing
    net = load_network(find_preset(engine.preset), engine.weights_path)
    pictures = list(frames(real_pictures(images), *size).values())
    expected = [_codes(net, picture) for picture in pictures]
    half = deepcopy(net).half()
    plain = max(float(np.abs(_codes(half, p) - e).max()) for p, e in zip(pictures, expected, strict=True))
    figures: dict[str, Any] = {"size": "{}x{}".format(*size), "plain": plain}
    broken = []
    for backend in ON_GPU:
        try:
            with Deblurrer(str(engine.folder.resolve()), device, backend=backend) as deblurrer:
                found = figures[backend] = _differences(deblurrer, pictures, expected)
        except EngineError as error:
            figures[backend] = {"absent": f"{error} ({error.hint})" if error.hint else str(error)}
            continue
        if not found["max"] <= HALF_BOUND * plain + ROUNDING or found["non_finite"]:
            broken.append(f"{backend}: {found['max']:.3g} codes, {found['non_finite']} values not finite")
    if broken:
        raise EngineError(f"{engine.folder}: more than FP16 explains ({plain:.3g} codes): {'; '.join(broken)}")
    if all("absent" in figures[backend] for backend in ON_GPU):
        reasons = "; ".join(figures[backend]["absent"] for backend in ON_GPU)
        raise EngineError(f"no engine opens {engine.preset} on {device}: {reasons}", "type: crispstream doctor")
    return figures


def _codes(net: HumanAwareNet, picture: Rgb) -> npt.NDArray[np.float32]:
    """The network's picture in codes, not rounded: (H, W, 3), R, G, B."""
    image = image_tensor(picture).to(next(net.parameters()).dtype)
    restored = run_network(net, image).image[0].permute(1, 2, 0).float()
    return np.asarray(restored.clamp(0, 1) * 255)


def _differences(
    deblurrer: Deblurrer, pictures: list[Rgb], expected: list[npt.NDArray[np.float32]]
) -> dict[str, float]:
    found = [deblurrer(bgr_frame(picture)).planes[0][..., ::-1] for picture in pictures]
    errors = np.stack([np.abs(f.astype(np.float32) - e) for f, e in zip(found, expected, strict=True)])
    differing = np.mean([np.mean(f != np.rint(e)) for f, e in zip(found, expected, strict=True)])
    return {"max": float(errors.max()), "share": float(differing), "non_finite": deblurrer.stats.non_finite}
