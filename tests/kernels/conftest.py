# SPDX-License-Identifier: Apache-2.0
"""The folder above this one is importable: the emulated GPU lies there."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
