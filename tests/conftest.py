# SPDX-License-Identifier: Apache-2.0
"""``emulation`` can be imported by every test, and its GPU is a fixture of all."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
# Shells and nohup start what runs in the background deaf to Ctrl-C and hanging up. Tests do both, here and in processes
# of theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from emulation.fixture import emulated_gpu  # noqa: F401
