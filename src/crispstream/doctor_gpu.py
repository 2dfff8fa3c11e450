# SPDX-License-Identifier: Apache-2.0
"""The self-check of the NVIDIA path: driver, kernels, pycuda, TensorRT, plans."""

from __future__ import annotations

import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from crispstream import doctor_jetson, plan
from crispstream.check import Check, failed, version
from crispstream.cuda import driver
from crispstream.engine.tensorrt import Library, check_supported, library
from crispstream.errors import EngineError
from crispstream.kernels import library as kernel_library
from crispstream.manifest import available_presets, load
from crispstream.plan import FLAVOURS, Flavour, Gpu

PCI = Path("/sys/bus/pci/devices")
TOOLKIT = Path("/usr/local/cuda")


def gpu_checks() -> list[Check]:
    """What the GPU engines need, each with what to type. One line where there is no NVIDIA GPU."""
    found = driver.probe()
    if found.problem and not _hardware():
        return [Check("NVIDIA GPU", "missing", "none: the CPU engine is used")]
    if found.problem:
        status = "broken" if found.version else "missing"
        return [Check("NVIDIA driver", status, f"{found.problem}; until then the CPU engine is used", found.hint)]
    return [_driver(found), _kernels(found.version), _pycuda(), *_tensorrt(found)]


def _hardware() -> bool:
    """Whether an NVIDIA GPU is built in, driver or not: a PCI display controller of theirs, or a Jetson."""
    devices = PCI.iterdir() if PCI.is_dir() else ()
    nvidia = (device for device in devices if _text(device / "vendor") == "0x10de")
    return doctor_jetson.is_jetson() or any(_text(device / "class").startswith("0x03") for device in nvidia)


def _driver(found: driver.Driver) -> Check:
    gpus = ", ".join(f"cuda:{gpu.index} {_gpu(found, gpu)}" for gpu in found.gpus)
    return Check("NVIDIA driver", "ok", gpus)


def _kernels(driver_version: int) -> Check:
    files = [kernel_library.library_path(f"crispstream_cuda{major}") for major in kernel_library.CUDA_MAJORS]
    there = [path.name for path in files if path.exists()]
    try:
        chosen = Path(str(kernel_library.cuda_library(driver_version)._name)).name
    except EngineError as error:
        return failed("CUDA kernels", error, missing=not there)
    others = [name for name in there if name != chosen]
    return Check("CUDA kernels", "ok", chosen + (f" (there is {', '.join(others)}, too)" if others else ""))


def _pycuda() -> Check:
    try:
        drv = driver.load()
    except EngineError as error:
        if find_spec("pycuda") is not None:
            return failed("pycuda", error)
        piece, hint = _pycuda_needs()
        return Check("pycuda", "missing", piece, hint)
    return Check("pycuda", "ok", "{}, built for CUDA {}.{}".format(version("pycuda"), *drv.get_version()))


def _pycuda_needs() -> tuple[str, str]:
    """The first piece that pycuda, which is compiled while it installs, lacks here, and what to type."""
    install, on_path = "pip install pycuda", shutil.which("nvcc")
    nvcc = on_path or shutil.which("nvcc", path=str(TOOLKIT / "bin"))
    if nvcc is None:
        return "not installed; building it needs the CUDA toolkit", "type: sudo apt install cuda-toolkit (docs/gpu.md)"
    if shutil.which("g++") is None:
        return "not installed; building it needs a C++ compiler", f"type: sudo apt install g++ && {install}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "not installed; building it needs Python's headers", f"type: sudo apt install python3-dev && {install}"
    if not on_path:
        install = f"PATH={Path(nvcc).parent}:$PATH {install}"
    settings = []
    # pycuda takes the folder above nvcc's for the toolkit; a link or a wrapper in /usr/local/bin misleads it.
    root = Path(nvcc).parents[1]
    if not (root / "include" / "cuda.h").exists():
        root = Path(nvcc).resolve().parents[1]
        root = root if (root / "include" / "cuda.h").exists() else TOOLKIT
        settings.append(f'CUDA_ROOT = "{root}"')
    if not any((root / folder / "libcurand.so").exists() for folder in ("lib64", "lib")) and not _system_curand():
        settings.append("CUDA_ENABLE_CURAND = False")
    if settings:
        lines = " ".join(f"'{line}'" for line in settings)
        install = f"printf '%s\\n' {lines} >> ~/.aksetup-defaults.py && {install}"
    return "not installed", f"type: {install}"


def _system_curand() -> bool:
    return any(Path("/usr/lib").glob("*/libcurand.so"))


def _tensorrt(found: driver.Driver) -> list[Check]:
    """The TensorRT flavours that run on the first GPU, and its plans. One of the two flavours is enough."""
    gpu = _gpu(found, found.gpus[0])
    usable: list[Library] = []
    failures: list[tuple[Flavour, EngineError]] = []
    for flavour in FLAVOURS:
        try:
            loaded = library(flavour)
            check_supported(loaded, gpu)
            usable.append(loaded)
        except EngineError as error:
            failures.append((flavour, error))
    if usable:
        plans = [_plan(preset, usable, gpu) for preset in available_presets()]
        return [Check("TensorRT", "ok", ", ".join(map(str, usable))), *plans]
    installed = [failed("TensorRT", error) for flavour, error in failures if find_spec(flavour.replace("-", "_"))]
    if installed:
        return installed
    names = " and ".join(str(error) for _, error in failures)
    return [Check("TensorRT", "missing", names, "; ".join(error.hint for _, error in failures))]


def _plan(preset: str, usable: list[Library], gpu: Gpu) -> Check:
    """Whether ``preset`` has a plan that this GPU can run."""
    name, sizes, problems = f"plan of {preset}", [], []
    for loaded in usable:
        try:
            found = plan.find(load(preset), loaded.flavour, loaded.version, gpu)
            sizes.append(f"{found.profile} ({loaded})")
        except EngineError as error:
            problems.append(error)
    return Check(name, "ok", ", ".join(sizes)) if sizes else failed(name, problems[0], missing=True)


def _gpu(found: driver.Driver, gpu: driver.Gpu) -> Gpu:
    return Gpu(gpu.name, gpu.compute_capability, gpu.multiprocessors, found.version)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
