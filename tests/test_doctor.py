# SPDX-License-Identifier: Apache-2.0
"""What the self-check tells people to do, on machines of every kind."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from emulation.fake_pycuda import FakeGpu
from emulation.fixture import EmulatedGpu

from crispstream import check, cpu, doctor, doctor_gpu, doctor_jetson, plan
from crispstream.check import Check
from crispstream.cuda import driver, libcuda
from crispstream.engine import tensorrt
from crispstream.errors import EngineError

OPTIONAL = {
    "torch": "pip install 'crispstream[export]'",
    "onnx": "pip install onnx",
    "onnxscript": "pip install 'crispstream[export]'",
    "aiohttp": "pip install 'crispstream[live]'",
    "cv2": "pip install 'crispstream[live]'",
    "skimage": "pip install 'crispstream[demo]'",
    "gi": "apt install python3-gi (docs/live.md)",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare machine: no GPU on the PCI bus, no Jetson, no driver, an empty plan cache."""
    for name in ("MODEL", "RELEASE", "MEMINFO", "SWAPS", "PYVENV"):
        monkeypatch.setattr(doctor_jetson, name, tmp_path / name)
    monkeypatch.setattr(doctor_gpu, "PCI", tmp_path / "pci")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def no_library() -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(libcuda, "_open", no_library)
    for cached in (libcuda.libcuda, driver.probe, driver.load):
        cached.cache_clear()
    return tmp_path


def gpu_checks() -> dict[str, Check]:
    return {found.name: found for found in doctor_gpu.gpu_checks()}


def jetson_checks(python: tuple[int, int]) -> dict[str, Check]:
    return {found.name: found for found in doctor_jetson.jetson_checks(python)}


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni", "AVX-512"),
        ("sse avx2 fma avx512f", "AVX2"),
        ("sse", f"baseline {platform.machine()}"),
    ],
)
def test_the_instruction_set(flags: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "field", lambda _: flags)
    assert doctor.vector_level() == level


def pci_device(folder: Path, vendor: str, kind: str) -> None:
    device = folder / "pci" / f"0000:01:00.{vendor}"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")


@pytest.mark.parametrize("installed", [False, True])
def test_optional_modules(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: object() if installed else None)
    found = {found.name: found for found in doctor.diagnose()}
    for name, wanted in OPTIONAL.items():
        assert found[name].status == ("ok" if installed else "missing") and not found[name].needed
        assert found[name].hint == ("" if installed else f"type: {wanted}")


# --- no GPU ----------------------------------------------------------------------------------------------------------


def test_a_machine_without_a_gpu_hears_of_it_in_one_line(folder: Path) -> None:
    pci_device(folder, "0x8086", "0x030000")
    assert doctor_gpu.gpu_checks() == [Check("NVIDIA GPU", "missing", "none: the CPU engine is used")]
    assert doctor_jetson.jetson_checks() == []
    assert doctor.healthy(doctor.diagnose())


def test_a_gpu_without_a_driver(folder: Path) -> None:
    pci_device(folder, "0x10de", "0x030200")
    (found,) = doctor_gpu.gpu_checks()
    assert (found.name, found.status) == ("NVIDIA driver", "missing")
    assert "libcuda.so.1" in found.detail and "CPU engine is used" in found.detail
    assert "ubuntu-drivers" in found.hint
    assert doctor.healthy([found])


def test_other_hardware_of_nvidia_is_no_gpu(folder: Path) -> None:
    pci_device(folder, "0x10de", "0x020000")
    assert [found.name for found in doctor_gpu.gpu_checks()] == ["NVIDIA GPU"]


def test_an_old_driver(folder: Path, emulated_gpu: EmulatedGpu) -> None:
    pci_device(folder, "0x10de", "0x030000")
    emulated_gpu(driver_version=11040)
    (found,) = doctor_gpu.gpu_checks()
    assert found.status == "broken" and "CUDA 11.4, at least 12.0" in found.detail and found.hint


# --- a GPU -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorRT flavours by name; one that is not here is not installed."""
    there: dict[str, Any] = {}

    def library(flavour: plan.Flavour) -> Any:
        if flavour not in there:
            raise EngineError(f"{plan.LIBRARY[flavour]} is not installed", f"get {flavour}")
        if isinstance(there[flavour], EngineError):
            raise there[flavour]
        capabilities = SimpleNamespace(SM86=0, SM89=0)
        return tensorrt.Library(
            flavour, SimpleNamespace(__version__=there[flavour], ComputeCapability=capabilities), None
        )

    monkeypatch.setattr(doctor_gpu, "library", library)
    monkeypatch.setattr(
        doctor_gpu, "find_spec", lambda name: object() if name.replace("_", "-") in there or name == "pycuda" else None
    )
    return there


def test_everything_there_but_the_plan(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu(FakeGpu("Emulated GPU", (8, 9), 58), driver_version=12060)
    trt["tensorrt"] = "10.3.0"
    found = gpu_checks()
    assert [found[name].status for name in ("NVIDIA driver", "CUDA kernels", "pycuda", "TensorRT")] == ["ok"] * 4
    assert found["NVIDIA driver"].detail == ("cuda:0 Emulated GPU (sm89, 58 multiprocessors, driver for CUDA 12.6)")
    assert found["CUDA kernels"].detail == "libcrispstream_cuda12.so (there is libcrispstream_cuda13.so, too)"
    assert "built for CUDA 12.6" in found["pycuda"].detail
    assert found["TensorRT"].detail == "TensorRT 10.3.0"
    missing = found["plan of nano"]
    assert missing.status == "missing" and "none was built" in missing.detail
    assert missing.hint.startswith("type: crispstream build nano")


def test_a_damaged_engine_does_not_stop_the_rest(
    emulated_gpu: EmulatedGpu, trt: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated_gpu()
    trt["tensorrt"] = "10.3.0"

    def damaged(preset: str) -> Any:
        raise EngineError("nano is damaged", "restore it")

    monkeypatch.setattr(doctor_gpu, "load", damaged)
    assert gpu_checks()["plan of nano"] == Check("plan of nano", "missing", "nano is damaged", "restore it")


def test_kernels_that_are_too_new_for_the_driver(
    emulated_gpu: EmulatedGpu,
    trt: dict[str, Any],
    folder: Path,
) -> None:
    emulated_gpu(driver_version=12060)
    (folder / "emulated" / "libcrispstream_cuda12.so").unlink()
    found = gpu_checks()["CUDA kernels"]
    assert found.status == "broken" and "built for CUDA 13" in found.detail and found.hint


def test_installed_without_kernels(
    emulated_gpu: EmulatedGpu,
    trt: dict[str, Any],
    folder: Path,
) -> None:
    emulated_gpu()
    for library in (folder / "emulated").glob("libcrispstream_cuda*"):
        library.unlink()
    found = gpu_checks()["CUDA kernels"]
    assert found.status == "missing" and "nvcc" in found.hint


def test_no_tensorrt(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu()
    found = gpu_checks()
    assert found["TensorRT"].status == "missing"
    assert found["TensorRT"].hint == "get tensorrt; get tensorrt-rtx"
    assert "plan of nano" not in found


def test_one_flavour_is_enough(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu()
    trt["tensorrt-rtx"] = "1.4.0"
    assert gpu_checks()["TensorRT"] == Check("TensorRT", "ok", "TensorRT-RTX 1.4.0")


def test_rtx_on_a_gpu_that_it_does_not_know(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu(FakeGpu("H100", (9, 0), 132))
    trt["tensorrt-rtx"] = "1.4.0"
    found = gpu_checks()["TensorRT"]
    assert found.status == "broken" and "does not run on H100 (sm90)" in found.detail and found.hint


def test_old_tensorrt(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu()
    trt["tensorrt"] = EngineError("TensorRT 8.6 is too old, 10.3 or newer is needed", "JetPack")
    assert gpu_checks()["TensorRT"] == Check(
        "TensorRT", "broken", "TensorRT 8.6 is too old, 10.3 or newer is needed", "JetPack"
    )


def test_pycuda_for_another_cuda(emulated_gpu: EmulatedGpu, trt: dict[str, Any]) -> None:
    emulated_gpu(driver_version=12060, built_for=(13, 0, 0))
    found = gpu_checks()["pycuda"]
    assert found.status == "broken" and "built for CUDA 13.0, the driver has 12.6" in found.detail
    assert "force-reinstall" in found.hint


# --- pycuda's missing piece ------------------------------------------------------------------------------------------


@pytest.fixture
def tools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it with the programs that are on the PATH; a toolkit lies in ``folder / "cuda"``."""
    monkeypatch.setattr(doctor_gpu, "TOOLKIT", folder / "cuda")
    monkeypatch.setattr(doctor_gpu, "_system_curand", lambda: False)
    monkeypatch.setattr(doctor_gpu.sysconfig, "get_path", lambda name: str(folder / "include"))

    def lay_out(*files: str, path: str = "bin") -> None:
        for name in files:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(folder / path))

    return lay_out


PYTHON, TOOLS = "include/Python.h", ("bin/g++", "include/Python.h")
CUDA = ("cuda/include/cuda.h", "cuda/lib64/libcurand.so")


@pytest.mark.parametrize(
    ("files", "piece", "hint"),
    [
        ((), "needs the CUDA toolkit", "cuda-toolkit"),
        (("bin/nvcc", PYTHON), "needs a C++ compiler", "apt install g++"),
        (("bin/nvcc", "bin/g++"), "needs Python's headers", "apt install python3-dev"),
        ((*TOOLS, *CUDA, "cuda/bin/nvcc"), "not installed", "type: PATH={folder}/cuda/bin:$PATH pip install pycuda"),
        (
            (*TOOLS, CUDA[0], "cuda/bin/nvcc"),
            "not installed",
            "type: printf '%s\\n' 'CUDA_ENABLE_CURAND = False' >> ~/.aksetup-defaults.py "
            "&& PATH={folder}/cuda/bin:$PATH pip install pycuda",
        ),
        (
            (*TOOLS, *CUDA, "bin/nvcc"),
            "not installed",
            "type: printf '%s\\n' 'CUDA_ROOT = \"{folder}/cuda\"' >> ~/.aksetup-defaults.py && pip install pycuda",
        ),
    ],
    ids=["toolkit", "compiler", "headers", "nothing", "curand", "wrapper"],
)
def test_what_pycuda_needs(
    tools: Callable[..., None], folder: Path, files: tuple[str, ...], piece: str, hint: str
) -> None:
    tools(*files)
    found = doctor_gpu._pycuda_needs()
    assert piece in found[0] and hint.format(folder=folder) in found[1]


# --- Jetson ----------------------------------------------------------------------------------------------------------

RELEASES = {
    6: "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    7: "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
    5: "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
}


@pytest.fixture
def jetson(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it to turn this machine into a Jetson."""

    def become(jetpack: int | None, power: str = "MAXN", clocks: str = "", swap: str = "", site: str = "true") -> None:
        (folder / "MODEL").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
        if jetpack:
            (folder / "RELEASE").write_text(RELEASES[jetpack])
        (folder / "MEMINFO").write_text("MemTotal:        7802840 kB\nMemFree:          512000 kB\n")
        (folder / "SWAPS").write_text("Filename\tType\tSize\tUsed\tPriority\n" + swap)
        (folder / "PYVENV").write_text(f"home = /usr/bin\ninclude-system-site-packages = {site}\n")
        monkeypatch.setattr(doctor_jetson, "NVPMODEL", ("echo", f"NV Power Mode: {power}\n0"))
        monkeypatch.setattr(
            doctor_jetson, "CLOCKS", ("echo", f"SOC family:tegra234\n{clocks}") if clocks else ("false",)
        )

    return become


def test_a_jetson_that_is_set_up(jetson: Callable[..., None]) -> None:
    jetson(6, clocks="GPU MinFreq=624750000 MaxFreq=624750000 CurrentFreq=624750000", swap="/swap file 8388604 0 -2\n")
    found = jetson_checks((3, 10))
    assert {check.status for check in found.values()} == {"ok"} and not any(check.hint for check in found.values())
    assert found["Jetson"].detail == "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6 (Jetson Linux 36.4.3)"
    assert found["Jetson's clocks"].detail == "GPU held at 624 MHz"
    assert found["Jetson's memory"].detail == "7.4 GiB, 8.0 GiB of swap on a disk"


def test_a_jetson_that_is_not(jetson: Callable[..., None]) -> None:
    clocks = "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000"
    jetson(6, power="15W", clocks=clocks, swap="/dev/zram0 partition 3901420 0 5\n", site="false")
    found = jetson_checks((3, 10))
    assert found["Jetson's Python"].status == "broken"
    assert "python3.10 -m venv --system-site-packages" in found["Jetson's Python"].hint
    assert found["Jetson's power mode"].detail == "15W" and "nvpmodel -m" in found["Jetson's power mode"].hint
    assert "306 to 624 MHz" in found["Jetson's clocks"].detail and "jetson_clocks" in found["Jetson's clocks"].hint
    assert (
        "0.0 GiB of swap on a disk" in found["Jetson's memory"].detail
        and "8 GB of swap" in found["Jetson's memory"].hint
    )


@pytest.mark.parametrize(("jetpack", "python", "wanted"), [(6, (3, 12), "3.10"), (7, (3, 10), "3.12")])
def test_another_python_than_tensorrts(
    jetson: Callable[..., None], jetpack: int, python: tuple[int, int], wanted: str
) -> None:
    jetson(jetpack)
    found = jetson_checks(python)["Jetson's Python"]
    assert found.status == "broken" and f"JetPack {jetpack}'s TensorRT is for {wanted}" in found.detail
    assert f"python{wanted} -m venv" in found.hint


def test_jetpack_7(jetson: Callable[..., None]) -> None:
    jetson(7)
    found = jetson_checks((3, 12))
    assert "JetPack 7 (Jetson Linux 39.2.0)" in found["Jetson"].detail and found["Jetson's Python"].status == "ok"


def test_jetpack_5_is_too_old(jetson: Callable[..., None]) -> None:
    jetson(5)
    found = jetson_checks((3, 8))
    assert found["Jetson"].status == "broken" and "Jetson Linux 35.4.1" in found["Jetson"].detail
    assert "JetPack 6 or 7" in found["Jetson"].hint and "Jetson's Python" not in found


def test_a_container_and_a_user_who_may_not_ask(jetson: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    jetson(None)
    monkeypatch.setattr(doctor_jetson, "NVPMODEL", ("there-is-no-such-program",))
    found = jetson_checks((3, 10))
    assert "a container?" in found["Jetson"].detail
    assert "sudo" in found["Jetson's power mode"].hint and "sudo" in found["Jetson's clocks"].hint


def test_a_jetson_has_an_nvidia_gpu(jetson: Callable[..., None]) -> None:
    jetson(6)
    assert [found.name for found in doctor_gpu.gpu_checks()] == ["NVIDIA driver"]
