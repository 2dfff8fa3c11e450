# SPDX-License-Identifier: Apache-2.0
"""The emulated GPU for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from emulation.fixture import emulated_gpu  # noqa: F401
