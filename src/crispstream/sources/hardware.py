# SPDX-License-Identifier: Apache-2.0
"""A decoder on the graphics card, where there is one that works."""

from __future__ import annotations

import logging
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel

_KIND = "cuda"
"""NVDEC, the only one that PyAV's wheels are built with and that concerns NVIDIA's cards."""
_DRIVER = Path("/dev/nvidiactl")

_logger = logging.getLogger("crispstream.live")
_works: bool | None = None


def accelerator() -> HWAccel | None:
    """What ``av.open`` takes as ``hwaccel``; None where streams are decoded in software. Tried once a process."""
    global _works
    if _works is None:
        _works = _DRIVER.exists() and _try()
    return HWAccel(_KIND, allow_software_fallback=True) if _works else None


def give_up(reason: str) -> None:
    """Decode in software from now on, in this process."""
    global _works
    if _works:
        _logger.warning("hardware decoding is switched off: %s", reason)
    _works = False


def _try() -> bool:
    """Whether the driver lets itself be opened for decoding."""
    try:
        av.CodecContext.create("h264", "r", HWAccel(_KIND))
    except Exception as error:  # a driver may fail in any way, and software always works
        _logger.info("decoding in software: the graphics card gives no decoder (%s)", error)
        return False
    return True
