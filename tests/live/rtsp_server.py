# SPDX-License-Identifier: Apache-2.0
"""A real RTSP server on 127.0.0.1 that a test can kill, freeze and start again. Run by Debian's Python, which has gi.

As a program: ``/usr/bin/python3 rtsp_server.py --port 8554 --size 320x180``. Prints ``ready`` when it listens.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

PYTHON = "/usr/bin/python3"
PATH = "stream"
_NEEDED = {
    "gir1.2-gst-rtsp-server-1.0": "import gi; gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import GstRtspServer",
    "gstreamer1.0-plugins-ugly": "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst;"
    "Gst.init(None); assert Gst.ElementFactory.find('x264enc')",
    "gstreamer1.0-plugins-good": "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst;"
    "Gst.init(None); assert Gst.ElementFactory.find('rtph264pay')",
}


@cache
def missing_package() -> str | None:
    """The Debian package that a server needs and this machine lacks."""
    if not Path(PYTHON).exists():
        return "python3-gi"
    for package, check in _NEEDED.items():
        if subprocess.run([PYTHON, "-c", check], capture_output=True).returncode:
            return package
    return None


class RtspServer:
    """A running server. ``freeze``: the connection stays, nothing is sent any more; ``thaw``; ``kill``: SIGKILL.

    ``user`` is ``name:password`` where the server asks for it. ``file`` is played instead of a pattern.
    """

    def __init__(
        self,
        size: tuple[int, int] = (320, 180),
        rate: int = 25,
        port: int | None = None,
        user: str | None = None,
        file: Path | None = None,
        options: str = "",
    ) -> None:
        from ports import free_port  # the program below finds no other module of the tests

        self.port = port or free_port()
        self._user, self._file, self._options = user, file, options
        self.start(size, rate)

    @property
    def url(self) -> str:
        """Where the stream is, with user and password."""
        return f"rtsp://{self._user + '@' if self._user else ''}127.0.0.1:{self.port}/{PATH}"

    def start(self, size: tuple[int, int] = (320, 180), rate: int = 25) -> None:
        """Listen, on the same port as ever. Returns when the server does."""
        command = [PYTHON, __file__, "--port", str(self.port), "--size", f"{size[0]}x{size[1]}", "--rate", str(rate)]
        command += ["--user", self._user] if self._user else []
        command += ["--file", str(self._file)] if self._file else []
        command += [f"--encoder-options={self._options}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the RTSP server does not start"

    def freeze(self) -> None:
        """Send nothing more; connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once, without a word to anybody. Idempotent."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


class Babbler:
    """A TCP server that answers everybody with ``answer``, after they said something, and keeps the connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            try:
                connection.recv(4096)
                connection.sendall(self._answer)
            except OSError:
                continue

    def __enter__(self) -> Babbler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._open:
            connection.close()


def _serve(arguments: argparse.Namespace) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    width, height = arguments.size.split("x")
    if arguments.file:
        pictures = f'filesrc location="{arguments.file}" ! decodebin ! videoconvert'
    else:
        pictures = (
            "videotestsrc is-live=true pattern=ball"
            f" ! video/x-raw,format=I420,width={width},height={height},framerate={arguments.rate}/1"
        )
    server: Any = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(arguments.port))
    factory: Any = GstRtspServer.RTSPMediaFactory()
    # A key picture every second: who joins sees something within a second.
    options = arguments.encoder_options or "tune=zerolatency"
    factory.set_launch(
        f"( {pictures} ! x264enc speed-preset=ultrafast {options} bitrate=800 key-int-max={arguments.rate}"
        " threads=1 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    if arguments.user:
        name, password = arguments.user.split(":")
        auth: Any = GstRtspServer.RTSPAuth()
        token: Any = GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
        server.set_auth(auth)
        permissions: Any = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory(f"/{PATH}", factory)
    if not server.attach(None):
        sys.exit(f"port {arguments.port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--rate", type=int, default=25)
    parser.add_argument("--user")
    parser.add_argument("--file")
    parser.add_argument("--encoder-options", default="")
    _serve(parser.parse_args())
