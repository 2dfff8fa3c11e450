# SPDX-License-Identifier: Apache-2.0
"""What nvcc made of the CUDA kernels, by the report that lies beside the installed library; and when CMake leaves them
out. Nothing is compiled here that the installation has not compiled already."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from crispstream.kernels.library import CUDA_MAJORS, library_path

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
WANTED = {75, 80, 86, 87, 89, 90, 100, 110, 120}
KERNELS = {"unpack_tiles": 2, "blend_tiles": 16, "cell_statistics": 1}
ENTRY = re.compile(
    r"Compiling entry function '\w*?crispstream\d+([a-z_]+)(?:I((?:Lb[01]E)+)E)?\w*' for 'sm_(\d+)'\n"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\nUsed (\d+) registers"
)

pytestmark = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")


class Entry(NamedTuple):
    """One kernel on one architecture; ``flags`` are its template arguments, the first: made for the presets."""

    kernel: str
    flags: str
    architecture: int
    stack: int
    spilled: int
    registers: int


@pytest.fixture(scope="module")
def report() -> tuple[set[int], list[Entry]]:
    """The architectures that the library was built for, and its kernels."""
    paths = [library_path(f"crispstream_cuda{major}").with_suffix(".txt") for major in CUDA_MAJORS]
    found = [path for path in paths if path.exists()]
    assert found, f"{NVCC} is here, but the package was installed without its CUDA kernels: install it again"
    title, text = found[0].read_text().split("\n", 1)
    architectures = {int(name) for name in title.split("architectures ")[1].split()}
    entries = [
        Entry(name, flags.replace("Lb", "").replace("E", ""), int(sm), int(stack), int(out) + int(back), int(registers))
        for name, flags, sm, stack, out, back, registers in ENTRY.findall(text)
    ]
    assert len(entries) == text.count("Compiling")
    return architectures, entries


def test_every_kernel_for_every_architecture(report: tuple[set[int], list[Entry]]) -> None:
    architectures, entries = report
    known = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    assert architectures == {sm for sm in WANTED if f"compute_{sm}\n" in known}
    for kernel, count in KERNELS.items():
        for architecture in architectures:
            found = [entry for entry in entries if (entry.kernel, entry.architecture) == (kernel, architecture)]
            assert len(found) == count


def test_registers(report: tuple[set[int], list[Entry]]) -> None:
    """Nothing spills; what every frame runs leaves room for at least 768 threads on a multiprocessor."""
    for entry in report[1]:
        converts = entry.kernel == "blend_tiles" and entry.flags[1] == "1"
        assert (entry.stack, entry.spilled) == (0, 0), entry
        assert entry.registers <= (80 if entry.flags.startswith("1") and not converts else 128), entry


def configure(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), *settings]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def broken_nvcc(tmp_path: Path) -> Path:
    """One that has no static runtime library."""
    program = tmp_path / "nvcc"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "release 12.6, V12.6.77" && exit\n'
        'echo "/usr/bin/ld: cannot find -lcudart_static" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    return program


def test_cuda_is_left_out_with_the_reason(tmp_path: Path, broken_nvcc: Path) -> None:
    done = configure(tmp_path / "auto", f"-DCRISPSTREAM_NVCC={broken_nvcc}")
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels: left out" in done.stdout and "no static runtime library" in done.stdout


def test_cuda_on_makes_absence_an_error(tmp_path: Path, broken_nvcc: Path) -> None:
    done = configure(tmp_path / "on", f"-DCRISPSTREAM_NVCC={broken_nvcc}", "-DCRISPSTREAM_CUDA=ON")
    assert done.returncode != 0 and "CRISPSTREAM_CUDA is ON, but" in done.stderr
    done = configure(tmp_path / "none", "-DCRISPSTREAM_NVCC=/nowhere/nvcc", "-DCRISPSTREAM_CUDA=ON")
    assert done.returncode != 0 and "is not a CUDA compiler" in done.stderr
