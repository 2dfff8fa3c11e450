# SPDX-License-Identifier: Apache-2.0
"""How long it takes until something happens: the import, and the first frame of `crispstream run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.clips import film
from benchmarks.conftest import BACKENDS
from benchmarks.paired import Paired, timed
from benchmarks.sizes import SIZES, pixels

ROUNDS = 10
MAIN = "from crispstream.cli import main; main()"

python = timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))


def test_import(paired: Paired) -> None:
    """Beside a Python that does nothing."""
    command = [sys.executable, "-c", "import crispstream"]
    paired(lambda: subprocess.run(command, check=True), python, "python", ROUNDS)


def test_first_frame(paired: Paired, tmp_path: Path) -> None:
    """From the start of the program to the first frame on its standard output, of a film of 640x360."""
    source = film(tmp_path / "in.mp4", pixels(SIZES[0]), 25)
    width, height = pixels(SIZES[0])
    options = ["--device", "cpu", "--engine-backend", BACKENDS["fp32"], "--quiet"]

    def first() -> None:
        command = [sys.executable, "-c", MAIN, "run", str(source), "-", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            got = process.stdout.read(width * height * 3 // 2)
            process.kill()
        assert len(got) == width * height * 3 // 2

    paired(first, python, "python", ROUNDS)
