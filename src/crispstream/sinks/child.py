# SPDX-License-Identifier: Apache-2.0
"""A process of this program that is fed with frames, and what it says.

For sinks whose libraries hold Python's lock while they wait for a network (PyAV opening and closing an output), or end
the whole process when something fails (Xlib, Qt).
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from crispstream.errors import ClosedPipeError, OutputError
from crispstream.frame import Frame, PixelFormat, plane_shapes

# Seconds: how often a full pipe is looked at, and how much longer than the child's own limits one waits for it, first
# while it starts (a busy board reads its libraries slowly), then for a frame.
_TICK, _START, _GRACE = 0.25, 20.0, 2.0
# For a process that was killed or has closed its end: a busy machine takes a while to take it away.
_DEATH = 5.0
# Python puts the current folder before all others, where any file may lie under the name of a library.
_ONLY_OURS = "import sys; sys.path[:] = filter(None, sys.path); "
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<qII")  # ticks, width, height


class Child:
    """Runs ``main`` of a module, with ``about`` (JSON types) as its orders; returns when that says that it is open.

    ``name`` is for messages. ``opening`` and ``patience``: seconds until it is open, and for one frame; a child that
    takes longer is killed. Raises OutputError with what the child says, ClosedPipeError where it wants no more.
    """

    def __init__(self, module: str, about: Mapping[str, Any], name: str, opening: float, patience: float) -> None:
        self._name, self._patience = name, patience + _GRACE
        # The same modules as here, wherever the child looks first; secrets go through the pipe, not the command line.
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{_ONLY_OURS}from {module} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # the terminal's Ctrl-C is for the session: it ends this one in good order
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._frames, self._said = self._process.stdin, self._process.stdout
        self._rest, self._open, self._ended = b"", False, False
        os.set_blocking(self._frames.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._said, select.POLLIN)
        try:
            orders = json.dumps(about).encode()
            self._write(_LENGTH.pack(len(orders)) + orders)
            deadline = monotonic() + opening + _START
            while not self._open:
                self._listen(deadline)
        except BaseException:
            self.kill()
            raise

    def send(self, frame: Frame, ticks: int) -> None:
        """Hand over the pixels and a time. Raises OutputError and ClosedPipeError."""
        self._write(_HEAD.pack(ticks, frame.width, frame.height))
        for plane in frame.planes:
            self._write(np.ascontiguousarray(plane).data)

    def finish(self) -> None:
        """Tell the child that nothing more comes and wait until it has ended. Raises OutputError."""
        self._frames.close()
        deadline = monotonic() + self._patience
        with suppress(ClosedPipeError):
            while not self._ended:
                self._listen(deadline)
        self.kill()

    def kill(self) -> None:
        """End the child at once. Idempotent."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel
            self._process.wait(timeout=_DEATH)
        self._frames.close()
        self._said.close()

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._poll.register(self._frames, select.POLLOUT)
        deadline = monotonic() + self._patience
        while view:
            self._listen(deadline)
            with suppress(BrokenPipeError):  # why is said on the other pipe
                view = view[self._frames.write(view[: 1 << 20]) or 0 :]
        self._poll.unregister(self._frames)

    def _listen(self, deadline: float) -> None:
        """Wait until the child takes or says something. Raises what it says, and OutputError past the deadline."""
        ready = self._poll.poll(1000 * _TICK)
        if any(fd == self._said.fileno() for fd, _ in ready):
            data = self._said.read(65536)
            if not data:
                self._part()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._heed(json.loads(line))
        elif not ready and monotonic() > deadline:
            raise OutputError(f"cannot write {self._name} (it takes nothing any more)")

    def _heed(self, message: Mapping[str, str]) -> None:
        if "error" in message:
            raise OutputError(f"cannot write {self._name} ({message['error']})", message.get("hint", ""))
        if "closed" in message:
            raise ClosedPipeError(message["closed"])
        self._open = True

    def _part(self) -> None:
        """The child has ended: raise why, unless it was told to."""
        try:
            code: int | None = self._process.wait(timeout=_DEATH)
        except subprocess.TimeoutExpired:
            code = None
        if code == -signal.SIGALRM:
            raise OutputError(f"cannot write {self._name} (no answer from the other end in time)")
        if code != 0 or not self._frames.closed:
            raise OutputError(f"cannot write {self._name} (its process ended with {_name(code)})")
        self._ended = True


class Order(NamedTuple):
    """A frame as it came through the pipe, and its time in the sink's ticks."""

    frame: Frame
    ticks: int


class Feed:
    """The child's end: ``about`` are its orders, ``fileno`` becomes readable when frames come.

    Stop signals are ignored: the end of the pipe is what ends the child, even where its parent was killed.
    """

    def __init__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._voice = os.dup(1)
        os.dup2(2, 1)  # what libraries print is no message
        self._in = FileIO(0, "rb")
        size = _LENGTH.unpack(self._read(_LENGTH.size) or bytes(_LENGTH.size))[0]
        self.about: dict[str, Any] = json.loads(self._read(size) or b"{}")

    def fileno(self) -> int:
        """The pipe."""
        return self._in.fileno()

    def next(self, pixel_format: PixelFormat) -> Order | None:
        """The next frame; None at the end."""
        head = self._read(_HEAD.size)
        if head is None:
            return None
        ticks, width, height = _HEAD.unpack(head)
        planes = []
        for shape in plane_shapes(pixel_format, width, height):
            data = self._read(int(np.prod(shape)))
            if data is None:
                return None
            planes.append(np.frombuffer(data, np.uint8).reshape(shape))
        return Order(Frame(tuple(planes), pixel_format), ticks)

    def say(self, **message: str) -> None:
        """``open``; ``error`` and ``hint``; ``closed``."""
        with suppress(OSError):  # nobody listens any more
            os.write(self._voice, json.dumps(message).encode() + b"\n")

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._in.readinto(view)
            if not count:
                return None
            view = view[count:]
        return data


class Limit:
    """``with Limit(seconds)``: what takes longer ends the process, even where it holds Python's lock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _name(code: int | None) -> str:
    with suppress(ValueError):
        return signal.Signals(-(code or 0)).name
    return f"code {code}"


class ChildSink:
    """A live sink whose work ``_child`` does; the first ``write`` makes it."""

    _child: Child | None = None

    def close(self) -> None:
        """Let the child finish what it has and end. Raises OutputError."""
        if self._child is not None:
            self._child.finish()
            self._child = None

    def abort(self) -> None:
        """End the child at once. Idempotent, and without effect after ``close``."""
        if self._child is not None:
            self._child.kill()
            self._child = None
