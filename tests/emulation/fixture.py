# SPDX-License-Identifier: Apache-2.0
"""A machine with one emulated GPU or more, for tests of everything above the driver."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulation.build import emulated_library
from emulation.fake_libcuda import FakeLibcuda
from emulation.fake_pycuda import FakeGpu, Machine, modules

from crispstream.cuda import driver, libcuda
from crispstream.kernels import library

EmulatedGpu = Callable[..., Machine]
_CACHES = (driver.probe, driver.load, libcuda.libcuda, library.cuda_library)


@pytest.fixture
def emulated_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedGpu]:
    """Call it with the GPUs, one discrete if none are named, and what else ``Machine`` takes.

    From then on driver, pycuda and kernel library are the emulated ones. When the test ends, nothing may be left on
    the machine once the workers have ended, and no rule of pycuda's may have been broken.
    """
    machines: list[Machine] = []
    before = set(threading.enumerate())

    def start(*gpus: FakeGpu, **settings: Any) -> Machine:
        emulated = emulated_library()
        machine = Machine(ctypes.CDLL(str(emulated)), list(gpus) or [FakeGpu()], **settings)
        folder = tmp_path / "emulated"
        folder.mkdir()
        for major in (12, 13):
            (folder / f"libcrispstream_cuda{major}.so").symlink_to(emulated)
        (folder / "libcrispstream_cpu.so").symlink_to(library.library_path("crispstream_cpu"))
        monkeypatch.setenv(library.DIRECTORY_VARIABLE, str(folder))
        for name, module in modules(machine).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(libcuda, "_open", lambda: FakeLibcuda(machine))
        _forget()
        machines.append(machine)
        return machine

    yield start
    _forget()
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("crispstream-gpu"):
            thread.join(60)  # of a worker that was dropped, not closed: it frees what it has in its own time
    for machine in machines:
        assert not machine.faults
        assert not machine.leaks(), machine.leaks()
        assert machine.library.emu_pending() == 0, "work that nobody waited for"


def _forget() -> None:
    for cached in _CACHES:
        cached.cache_clear()
