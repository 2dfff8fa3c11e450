# SPDX-License-Identifier: Apache-2.0
"""Ports of 127.0.0.1 for servers that a test starts, ends and starts again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port on which nobody listens, no other call was given, and that the system gives to nobody who does not ask
    for it by number: one of bind(0) may be taken, by whoever connects anywhere, before the test uses it or while the
    test's server is away.
    """
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    # Any of them: no seed, so that two runs of the tests side by side do not want the same.
    for port in random.SystemRandom().sample(range(10_000, max(first, 12_000)), 1000):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise OSError("no port is free")
