# SPDX-License-Identifier: Apache-2.0
"""The kernels on the CPU: unpack, blend, statistics, and the end of a branch. ``docs/kernels.md`` holds the arithmetic.

``reference.py`` is the NumPy twin: same functions, same bytes (but for ``residual``, a convolution). Every function may
be called from any thread; the library has no state and the interpreter lock is released while it works.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from crispstream.frame import Frame
from crispstream.kernels.checks import check_blend, check_head, check_packed, check_residual
from crispstream.kernels.geometry import Geometry
from crispstream.kernels.library import Image, Mix, Sizes, cpu_library
from crispstream.threads import cpu_quota

Tensor = npt.NDArray[np.floating]
Array = npt.NDArray[np.float32]

# A thread costs 30 to 60 us to start, a pixel 1 to 3 ns: with fewer pixels each, more threads do not pay.
PIXELS_PER_THREAD = 100_000

_NO_MEMORY = 6  # CRISPSTREAM_NO_MEMORY


def unpack(frame: Frame, geometry: Geometry, packed: Tensor, threads: int = 0) -> None:
    """Turn ``frame`` into the network's input: RGB in [0, 1], padded by edge replication, space-to-depth.

    ``packed``: ``geometry.packed_shape``, float32 or float16, C-contiguous, written whole; channel order of
    ``torch.nn.functional.pixel_unshuffle``. ``threads``: 0 chooses from the frame's size and the CPU quota; the
    result does not depend on it. Raises ValueError where an argument does not fit.
    """
    check_packed(frame, geometry, packed)
    _call(
        "crispstream_cpu_unpack",
        ctypes.byref(_image(frame)),
        ctypes.byref(_sizes(geometry, packed)),
        packed.ctypes.data,
        _threads(frame, threads),
    )


def blend(
    frame: Frame,
    geometry: Geometry,
    head: Tensor,
    foreground: Tensor | None,
    background: Tensor | None,
    out: Frame,
    strength: float = 1.0,
    mask_gain: float = 1.0,
    mask_bias: float = 0.0,
    threads: int = 0,
) -> int:
    """Write ``frame + strength * gate * (m * foreground + (1 - m) * background)`` into the planes of ``out``.

    ``head``: ``geometry.head_shape``, person mask and blur gate; m is ``mask_gain * mask + mask_bias``. ``foreground``,
    ``background``: ``geometry.packed_shape``; None stands for m = 0 or m = 1. All float32 or all float16.
    ``out`` has the frame's size and any format and colour; it may share the frame's planes if both are the frame's.
    Returns how many residual values were not finite; those are taken as 0. Raises ValueError like ``unpack``.
    """
    check_blend(frame, geometry, head, foreground, background, out)
    dropped = ctypes.c_uint64()
    _call(
        "crispstream_cpu_blend",
        ctypes.byref(_image(frame)),
        ctypes.byref(_sizes(geometry, head)),
        head.ctypes.data,
        None if foreground is None else foreground.ctypes.data,
        None if background is None else background.ctypes.data,
        ctypes.byref(Mix(strength, mask_gain, mask_bias)),
        ctypes.byref(_image(out)),
        ctypes.byref(dropped),
        _threads(frame, threads),
    )
    return dropped.value


def statistics(geometry: Geometry, head: Tensor) -> tuple[float, float]:
    """How much blur the head sees in people and in the rest: the two figures that human-aware gating decides from.

    The maximum over 16x16-pixel cells of mean(gate * mask) and of mean(gate * (1 - mask)). ``head``:
    ``geometry.head_shape``, float32 or float16. Raises ValueError where the map stride does not divide 16.
    """
    check_head(geometry, head)
    found = (ctypes.c_float * 2)()
    _call("crispstream_cpu_statistics", ctypes.byref(_sizes(geometry, head)), head.ctypes.data, found)
    return found[0], found[1]


def residual(features: Array, factors: Array, weight: Array, bias: Array, out: Array, threads: int = 1) -> None:
    """The end of a branch: a 3x3 convolution of ``features`` times ``factors``, each factor for 2x2 features.

    ``features`` (1, C, H, W), even; ``factors`` (1, C, H/2, W/2); ``weight`` (O, C, 3, 3); ``bias`` (O,);
    ``out`` (1, O, H, W), written whole. float32, C-contiguous. Agrees with the twin within the rounding of its sums:
    vectors, and FMA where the processor has it. ``threads`` as in ``unpack``, at least 1. Raises ValueError.
    """
    check_residual(features, factors, weight, bias, out)
    _, channels, height, width = features.shape
    tensors = (features, factors, weight, bias)
    addresses = (tensor.ctypes.data for tensor in tensors)
    sizes = (channels, weight.shape[0], height, width)
    _call("crispstream_cpu_residual", *addresses, *sizes, out.ctypes.data, threads)


def _image(frame: Frame) -> Image:
    color = frame.color
    image = Image(frame.format, frame.width, frame.height, color.matrix, color.range, color.siting)
    for i, plane in enumerate(frame.planes):
        image.plane[i] = plane.ctypes.data
        image.stride[i] = plane.strides[0] if plane.shape[0] > 1 else plane[0].nbytes
    return image


def _sizes(geometry: Geometry, tensor: Tensor) -> Sizes:
    half = tensor.dtype == np.float16
    return Sizes(geometry.pack, geometry.padded_width, geometry.padded_height, geometry.map_stride, int(half))


def _threads(frame: Frame, threads: int) -> int:
    if threads < 0:
        raise ValueError("threads is 0 (choose) or a positive number")
    return threads or max(1, min(cpu_quota(), frame.width * frame.height // PIXELS_PER_THREAD))


def _call(name: str, *arguments: object) -> None:
    library = cpu_library()
    if status := getattr(library, name)(*arguments):
        text = library.crispstream_status_text(status).decode()
        raise MemoryError(text) if status == _NO_MEMORY else ValueError(f"{name}: {text}")
