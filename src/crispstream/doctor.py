# SPDX-License-Identifier: Apache-2.0
"""What is on this machine, what is missing, and what to type."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from crispstream.errors import CrispStreamError

CPUINFO = Path("/proc/cpuinfo")
REINSTALL = "pip install --force-reinstall --no-deps . (in the checkout)"
DRIVER = "type: sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver)"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``status`` is "ok", "missing" or "broken"; ``needed`` says that the default path stops without it.

    ``hint`` is what to type or do about it, empty where nothing needs to be done.
    """

    name: str
    status: str
    detail: str
    hint: str = ""
    needed: bool = False


def diagnose() -> list[Check]:
    """Every check, what the default path needs first. Nothing is changed and no GPU library is initialised."""
    return [
        Check("Python", "ok", f"{platform.python_version()} on {platform.machine()}", needed=True),
        _needed("pixel kernels", REINSTALL, _kernels),
        _needed("ONNX Runtime", "pip install onnxruntime", _onnxruntime),
        _needed("engines", REINSTALL, _engines),
        _needed("video", "pip install av", _video),
        *(_module(name, "pip install 'crispstream[export]'") for name in ("torch", "onnx", "onnxscript")),
        _driver(),
        _unused("nvcc", _nvcc()),
        *(_unused(name, _version(name)) for name in ("tensorrt", "tensorrt_rtx", "pycuda")),
    ]


def healthy(checks: list[Check]) -> bool:
    """True when nothing that the default path needs is missing or broken."""
    return all(check.status == "ok" for check in checks if check.needed)


def cpu_model() -> str:
    """The processor's name as the kernel gives it, or its architecture."""
    return _cpuinfo("model name") or platform.machine()


def vector_level() -> str:
    """The instruction set that the pixel kernels pick here: "AVX2", or "baseline" of the architecture."""
    return "AVX2" if "avx2" in _cpuinfo("flags").split() else f"baseline {platform.machine()}"


def _cpuinfo(key: str) -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


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

    return f"{onnxruntime.__version__}, {cpu_quota()} of {os.cpu_count()} processors on {cpu_model()}"


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
    found = _version(name)
    return Check(name, "ok", found) if found else Check(name, "missing", "optional", f"type: {hint}")


def _unused(name: str, found: str) -> Check:
    """What a bug report may need to name, but nobody has to install."""
    unused = "optional, not used by this release"
    return Check(name, "ok", f"{found} ({unused})") if found else Check(name, "missing", unused)


def _version(name: str) -> str:
    """The version of an installed module, "" where there is none."""
    if find_spec(name) is None:
        return ""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "version unknown"


def _driver() -> Check:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Check("CUDA driver", "missing", "optional", DRIVER)
    return Check("CUDA driver", "ok", "libcuda.so.1")


def _nvcc() -> str:
    return shutil.which("nvcc", path=os.environ.get("PATH", "") + os.pathsep + "/usr/local/cuda/bin") or ""
