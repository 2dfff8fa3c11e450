# SPDX-License-Identifier: Apache-2.0
"""The fixture of every test here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from launch import environment  # noqa: F401
