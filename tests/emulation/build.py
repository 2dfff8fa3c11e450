# SPDX-License-Identifier: Apache-2.0
"""Builds the CUDA kernels for the CPU, so that they run in tests without a GPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "src" / "crispstream" / "kernels"
CACHE = ROOT / ".pytest_cache" / "emulation"

# Misaligned vector accesses, indices outside of arrays and overflows end the process: a GPU would not forgive them.
FLAGS = (
    *("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-Wall", "-Wno-unknown-pragmas"),
    *("-fvisibility=hidden", "-fno-semantic-interposition"),
    *("-fsanitize=alignment,bounds,shift,signed-integer-overflow", "-fsanitize-undefined-trap-on-error"),
)


@cache
def emulated_library() -> Path:
    """Path of the emulated ``libcrispstream_cuda13.so``: same C ABI, and the ``emu_`` functions of emulation.cpp.

    Compiled once for each state of the sources, with the g++ on the PATH, into the test cache. The folder is its own,
    so that ``CRISPSTREAM_LIBRARY_DIR`` can name it.
    """
    sources = [*sorted(KERNELS.glob("*.cu")), HERE / "emulation.cpp"]
    headers = [*KERNELS.rglob("*.h"), HERE / "cuda_runtime.h"]
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in [*sources, *sorted(headers)]:
        digest.update(path.read_bytes())
    library = CACHE / digest.hexdigest()[:16] / "libcrispstream_cuda13.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            _compile(sources, Path(folder))
            os.replace(Path(folder) / "all.so", library)
    return library


def _compile(sources: list[Path], folder: Path) -> None:
    include = ("-I", str(HERE), "-I", str(KERNELS), "-I", str(KERNELS / "include"))
    objects = [str(folder / f"{path.stem}.o") for path in sources]
    compilers = [
        subprocess.Popen(("g++", *FLAGS, *include, "-c", "-x", "c++", str(path), "-o", made))
        for path, made in zip(sources, objects, strict=True)
    ]
    if any([compiler.wait() for compiler in compilers]):
        raise RuntimeError("g++ cannot compile the emulated CUDA kernels")
    subprocess.run(("g++", *FLAGS, *objects, "-o", str(folder / "all.so")), check=True)
