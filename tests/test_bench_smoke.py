# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs: once, nano in FP32 at 640x360, timing nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Not the photographs, for which gating has to wait.
ROOT = Path(__file__).parents[1]
WHOLE = "640x360 or (pixel and 1280x720) or parts or gating or live or start"
SELECTED = f"({WHOLE}) and not (int8 or small or base or photographs)"
LEAST = 30


@pytest.mark.timeout(900)  # on two busy cores; where they are free it takes a minute
def test_the_benchmarks_run() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--seconds", "0", "-k", SELECTED, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(".") >= LEAST
