# SPDX-License-Identifier: Apache-2.0
"""What is on this machine, what is missing, and what to type."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from crispstream import cpu
from crispstream.check import Check, version
from crispstream.doctor_gpu import gpu_checks
from crispstream.doctor_jetson import jetson_checks
from crispstream.errors import CrispStreamError

REINSTALL = "pip install --force-reinstall --no-deps . (in the checkout)"


def diagnose() -> list[Check]:
    """Every check, what the default path needs first. Nothing is changed, and nothing is allocated on a GPU."""
    return [
        Check("Python", "ok", f"{platform.python_version()} on {platform.machine()}", needed=True),
        _needed("pixel kernels", REINSTALL, _kernels),
        _needed("ONNX Runtime", "pip install onnxruntime", _onnxruntime),
        _needed("engines", REINSTALL, _engines),
        _needed("video", "pip install av", _video),
        _module("onnx", "pip install onnx"),
        *(_module(name, "pip install 'crispstream[export]'") for name in ("torch", "onnxscript")),
        *(_module(name, "pip install 'crispstream[live]'") for name in ("aiohttp", "cv2")),
        _module("skimage", "pip install 'crispstream[demo]'"),
        _module("gi", "apt install python3-gi (docs/live.md)"),
        *gpu_checks(),
        *jetson_checks(),
    ]


def healthy(checks: list[Check]) -> bool:
    """True when nothing that the default path needs is missing or broken."""
    return all(check.status == "ok" for check in checks if check.needed)


def vector_level() -> str:
    """The instruction set that the pixel kernels, built by GCC 12 or newer, pick here: "AVX-512", "AVX2", or "baseline"
    of the architecture."""
    flags = set(cpu.field("flags").split())
    if flags >= {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}:
        return "AVX-512"
    return "AVX2" if "avx2" in flags else f"baseline {platform.machine()}"


def _needed(name: str, hint: str, probe: Callable[[], str]) -> Check:
    """Run ``probe``: what it returns is the detail, what it raises makes the check fail."""
    try:
        return Check(name, "ok", probe(), needed=True)
    except ModuleNotFoundError as error:
        return Check(name, "missing", f"no module {error.name}", f"type: {hint}", needed=True)
    except CrispStreamError as error:
        return Check(name, "broken", str(error), error.hint or f"type: {hint}", needed=True)
    except Exception as error:  # a half-installed library raises anything
        return Check(name, "broken", f"{type(error).__name__}: {error}", f"type: {hint}", needed=True)


def _kernels() -> str:
    from crispstream.kernels.library import ABI_VERSION, cpu_library

    cpu_library()
    return f"ABI {ABI_VERSION}, {vector_level()}"


def _onnxruntime() -> str:
    import onnxruntime

    from crispstream.threads import cpu_quota

    return f"{onnxruntime.__version__}, {cpu_quota()} of {os.cpu_count()} processors on {cpu.model()}"


def _engines() -> str:
    from crispstream import manifest

    presets = manifest.available_presets()
    if not presets:
        raise RuntimeError("no preset is installed")
    for preset in presets:
        manifest.load(preset)
    return f"{', '.join(presets)}: hashes match"


def _video() -> str:
    import av

    encoders = [name for name in ("libx264", "libx265", "libvpx-vp9") if name in av.codecs_available]
    if "libx264" not in encoders:
        raise RuntimeError(f"PyAV {av.__version__} was built without libx264, the default encoder")
    return f"PyAV {av.__version__} with {', '.join(encoders)}"


def _module(name: str, hint: str) -> Check:
    """Whether an optional module is installed, without importing it."""
    found = version(name)
    return Check(name, "ok", found) if found else Check(name, "missing", "optional", f"type: {hint}")
