# SPDX-License-Identifier: Apache-2.0
"""Telling systemd that the stream is up and alive (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Says nothing where nobody asked (``heard`` is False).

    ``watchdog_seconds``: how long systemd waits for a sign of life, or None.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self.heard = bool(self._address)
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(microseconds) / 1e6 if mine and microseconds.isdigit() else None

    def ready(self) -> None:
        """The service has started."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """A sign of life, and a line that ``systemctl status`` shows."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The service is closing its files."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self.heard:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError:
            pass  # a sign of life that is lost is made up for by the next one
