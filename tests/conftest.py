# SPDX-License-Identifier: Apache-2.0
"""``emulation`` can be imported by every test, and its GPU is a fixture of all."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from emulation.fixture import emulated_gpu  # noqa: F401
