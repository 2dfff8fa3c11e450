# SPDX-License-Identifier: Apache-2.0
"""Real-time, human-aware motion deblurring for live video.

Names load on first use, so that ``import crispstream`` is fast and needs none of the libraries behind them.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crispstream.deblurrer import Deblurrer
    from crispstream.errors import CrispStreamError
    from crispstream.files import run
    from crispstream.frame import ColorSpec, Frame, PixelFormat
    from crispstream.policy import Policy
    from crispstream.pool import DeblurrerPool

# ONNX Runtime sends usage events to its maker unless told not to before it is imported. Nobody who deblurs a camera
# expects that; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["ColorSpec", "CrispStreamError", "Deblurrer", "DeblurrerPool", "Frame", "PixelFormat", "Policy", "run"]

_MODULE_OF = {
    "ColorSpec": "frame",
    "CrispStreamError": "errors",
    "Deblurrer": "deblurrer",
    "DeblurrerPool": "pool",
    "Frame": "frame",
    "PixelFormat": "frame",
    "Policy": "policy",
    "run": "files",
}


def __getattr__(name: str) -> object:
    """Load a public name (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
