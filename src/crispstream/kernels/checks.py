# SPDX-License-Identifier: Apache-2.0
"""What the kernels and their twin check before they touch a pixel. Every function raises ValueError."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crispstream.frame import Frame
from crispstream.kernels.geometry import Geometry

_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))


def check_packed(frame: Frame, geometry: Geometry, packed: npt.NDArray[Any]) -> None:
    """The arguments of ``unpack``."""
    _check_fit(frame, geometry)
    _check_tensor("packed", packed, geometry.packed_shape)
    if not packed.flags.writeable:
        raise ValueError("packed must be writeable")


def check_head(geometry: Geometry, head: npt.NDArray[Any]) -> None:
    """The arguments of ``statistics``."""
    _check_tensor("head", head, geometry.head_shape)


def check_blend(
    frame: Frame,
    geometry: Geometry,
    head: npt.NDArray[Any],
    foreground: npt.NDArray[Any] | None,
    background: npt.NDArray[Any] | None,
    out: Frame,
) -> None:
    """The arguments of ``blend``."""
    _check_fit(frame, geometry)
    check_head(geometry, head)
    for name, residual in (("foreground", foreground), ("background", background)):
        if residual is not None:
            _check_tensor(name, residual, geometry.packed_shape)
            if residual.dtype != head.dtype:
                raise ValueError(f"{name} is {residual.dtype}, the head is {head.dtype}")
    if (out.width, out.height) != (frame.width, frame.height):
        raise ValueError(f"out is {out.width}x{out.height}, the frame is {frame.width}x{frame.height}")
    if not all(plane.flags.writeable for plane in out.planes):
        raise ValueError("out's planes must be writeable")


def check_residual(
    features: npt.NDArray[Any],
    factors: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    out: npt.NDArray[Any],
) -> None:
    """The arguments of ``residual``."""
    if features.ndim != 4 or weight.ndim != 4:
        raise ValueError("features and weight have four dimensions")
    (_, channels, height, width), outputs = features.shape, weight.shape[0]
    shapes = {
        "features": (1, channels, height // 2 * 2, width // 2 * 2),
        "factors": (1, channels, height // 2, width // 2),
        "weight": (outputs, channels, 3, 3),
        "bias": (outputs,),
        "out": (1, outputs, height, width),
    }
    tensors = {"features": features, "factors": factors, "weight": weight, "bias": bias, "out": out}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, shapes[name])
        if tensor.dtype != np.float32:
            raise ValueError(f"{name} is {tensor.dtype}, not float32")
    if not out.flags.writeable:
        raise ValueError("out must be writeable")


def _check_fit(frame: Frame, geometry: Geometry) -> None:
    if (frame.width, frame.height) != (geometry.width, geometry.height):
        raise ValueError(f"geometry is for {geometry.width}x{geometry.height}, got {frame.width}x{frame.height}")


def _check_tensor(name: str, tensor: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if tensor.shape != shape or tensor.dtype not in _DTYPES or not tensor.flags.c_contiguous:
        raise ValueError(
            f"{name} must be a C-contiguous float32 or float16 array of shape {shape}, "
            f"got {tensor.dtype} {tensor.shape}{'' if tensor.flags.c_contiguous else ', not contiguous'}"
        )
