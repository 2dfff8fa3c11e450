# SPDX-License-Identifier: Apache-2.0
"""A live stream to real peers on loopback, and to peers that are dead, silent, stalled, gone and back again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from ports import free_port
from shots import children, descriptors, noise, shot
from stand_ins import wait_for

from crispstream.errors import OutputError, UsageError
from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat, Range
from crispstream.live.protocol import Shot, Timeouts
from crispstream.sinks.push import PushSink

HERE = Path(__file__).parent
DEBIAN = "/usr/bin/python3"
_CHECK = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("h264parse")
"""


class Peer:
    """A process on the other end; ``frames`` are what a receiver has told so far."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._out = self.process.stdout
        assert self._out.readline() == "ready\n"
        self.frames: list[dict[str, Any]] = []
        self._ear = threading.Thread(target=self._hear, daemon=True)
        self._ear.start()

    def _hear(self) -> None:
        for line in self._out:
            self.frames.append(json.loads(line))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._ear.join(60)
        self._out.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is put here ends with the test; afterwards no process of a sink may be left."""
    before = children()
    with ExitStack() as stack:
        yield stack
    wait_for(lambda: children() <= before)


@pytest.fixture(scope="module")
def gstreamer() -> None:
    """Debian's GStreamer with its RTSP server."""
    if subprocess.run([DEBIAN, "-c", _CHECK], capture_output=True).returncode:
        pytest.skip("needs python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-bad from apt")


def receiver(stack: ExitStack, url: str, muxer: str) -> Peer:
    peer = Peer(sys.executable, HERE / "av_receiver.py", url, muxer)
    stack.callback(peer.end)
    return peer


def recorder(stack: ExitStack, port: int, path: Path, *login: str) -> Peer:
    peer = Peer(DEBIAN, HERE / "rtsp_recorder.py", port, path, *login)
    stack.callback(peer.end)
    return peer


def sink_for(stack: ExitStack, url: str, **wishes: Any) -> PushSink:
    sink = PushSink(url, **{"timeouts": Timeouts(60, 60), **wishes})
    stack.callback(sink.abort)
    return sink


def play(sink: PushSink, seconds: float, rate: float = 25, make: Callable[[int], Shot] = shot) -> None:
    """Every shot is taken exactly when it is due, and written when the machine lets us."""
    sink.write(make(0))  # starts a process, which takes its time
    start = time.monotonic()
    for i in range(1, round(seconds * rate)):
        time.sleep(max(0.0, start + i / rate - time.monotonic()))
        sink.write(replace(make(i), captured=start + i / rate))


def listens(kind: str, port: int) -> bool:
    """Whether somebody has the port, tcp or udp."""
    return f":{port:04X} " in Path(f"/proc/net/{kind}").read_text()


def yuv(number: int) -> Shot:
    luma = shot(number).after.planes[0][:, :, 1].copy()
    luma[:, (4 * number) % 64] = 255
    chroma = np.full((24, 32), 100, np.uint8)
    color = ColorSpec(Matrix.BT601, Range.FULL, primaries=6, transfer=6)
    frame = Frame((luma, chroma, chroma.copy()), PixelFormat.I420, color)
    return Shot(frame, frame, time.monotonic(), number)


@pytest.mark.parametrize(("kind", "encoder"), [("udp", "h264"), ("udp", "hevc"), ("rtmp", "h264")])
def test_frames_arrive(stack: ExitStack, kind: str, encoder: str) -> None:
    port = free_port(socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    url = f"udp://127.0.0.1:{port}" if kind == "udp" else f"rtmp://127.0.0.1:{port}/app/secret"
    peer = receiver(stack, url, "mpegts" if kind == "udp" else "flv")
    wait_for(lambda: listens("udp" if kind == "udp" else "tcp", port))
    sink = sink_for(stack, url, encoder=encoder)
    connect, ready = sink._connect, list[float]()
    sink._connect = lambda *about: (connect(*about), ready.append(time.monotonic()))[0]  # type: ignore[method-assign]
    size = (96, 64)  # x265 takes no fewer rows
    play(sink, 5, make=lambda i: (ready.append(time.monotonic()), shot(i, size=size))[1])
    sink.close()
    wait_for(lambda: len(peer.frames) > 60)
    time.sleep(0.5)
    frames = list(peer.frames)
    steps = np.diff([frame["seconds"] for frame in frames])
    assert (steps > 0).all() and np.median(steps) == pytest.approx(0.04, abs=0.002)
    pause = ready[2] - ready[1]  # between the start of the process and the second shot
    assert steps.max() < 0.5 + pause, "starting the process leaves no gap"
    assert set(np.diff([frame["number"] for frame in frames])) <= {1, 1 - 24}  # in order, without B frames, none lost
    assert {frame["kind"] for frame in frames} == {"I", "P"}
    keys = [frame["seconds"] for frame in frames if frame["key"]]
    assert len(keys) > 1
    for one, other in pairwise(keys):  # the first frame from two seconds on
        assert other - one > 1.99
        assert not [frame for frame in frames if one + 2.01 < frame["seconds"] < other]
    assert {tuple(frame["size"]) for frame in frames} == {size}
    assert frames[0]["color"] == [1, 1]
    assert frames[0]["codec"] == encoder


def test_colour_tags_are_kept(stack: ExitStack) -> None:
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    peer = receiver(stack, url, "mpegts")
    wait_for(lambda: listens("udp", port))
    sink = sink_for(stack, url)
    play(sink, 3, make=yuv)
    sink.close()
    wait_for(lambda: peer.frames)
    assert peer.frames[0]["color"] == [6, 2]


def test_another_size_connects_again(stack: ExitStack) -> None:
    port = free_port(socket.SOCK_DGRAM)
    url = f"udp://127.0.0.1:{port}"
    peer = receiver(stack, url, "mpegts")
    wait_for(lambda: listens("udp", port))
    sink = sink_for(stack, url)
    play(sink, 3)
    play(sink, 3, make=lambda i: shot(i, size=(97, 64)))  # odd: padded
    sink.close()
    wait_for(lambda: {tuple(frame["size"]) for frame in peer.frames} == {(64, 48), (98, 64)})


def test_rtsp_server_takes_it_dies_and_comes_back(stack: ExitStack, gstreamer: None, tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "kept.h264"
    peer = recorder(stack, port, path)
    url = f"rtsp://127.0.0.1:{port}/live"
    sink = sink_for(stack, url)
    play(sink, 2)
    peer.end()
    with pytest.raises(OutputError, match=rf"cannot write rtsp://127\.0\.0\.1:{port}/live"):
        play(sink, 5)
    sink.abort()
    with pytest.raises(OutputError, match="refused"):
        sink_for(stack, url).write(shot(0))
    first = len(decoded(path))
    recorder(stack, port, path)
    sink = sink_for(stack, url)

    def more() -> bool:
        play(sink, 3)  # the server may miss the first key frame, while it starts
        return len(decoded(path)) > first + 20

    wait_for(more)
    sink.close()
    frames = decoded(path)
    assert first > 0
    assert all((frame.width, frame.height) == (64, 48) for frame in frames)


def decoded(path: Path) -> list[av.VideoFrame]:
    """What was recorded so far, without what its end was cut off from."""
    frames: list[av.VideoFrame] = []
    with suppress(av.FFmpegError), av.open(str(path), format="h264") as film:
        frames += film.decode(video=0)
    return frames


def test_rtsp_login(stack: ExitStack, gstreamer: None, tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "kept.h264"
    recorder(stack, port, path, "me", "s3cret")
    with pytest.raises(OutputError) as caught:
        sink_for(stack, f"rtsp://me:wr0ng@127.0.0.1:{port}/live").write(shot(0))
    assert "401" in str(caught.value) or "nauthorized" in str(caught.value)
    assert "wr0ng" not in str(caught.value) and "\n" not in str(caught.value)
    sink = sink_for(stack, f"rtsp://me:s3cret@127.0.0.1:{port}/live")
    play(sink, 1)
    (command,) = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children() if is_pusher(pid)]
    assert b"s3cret" not in command
    sink.close()
    wait_for(path.exists)


def is_pusher(pid: int) -> bool:
    try:
        return b"crispstream.sinks.pusher" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return False


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
def test_a_dead_peer(stack: ExitStack, scheme: str) -> None:
    url = f"{scheme}://me:s3cret@127.0.0.1:{free_port()}/app/k3y"
    with pytest.raises(OutputError, match="refused") as caught:
        sink_for(stack, url).write(shot(0))
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)
    assert scheme == "rtsp" or "k3y" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
def test_a_peer_that_accepts_and_says_nothing(stack: ExitStack, scheme: str) -> None:
    """Nobody else may stand still meanwhile: PyAV holds Python's lock while it connects."""
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.01):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    stack.callback(thread.join)
    stack.callback(done.set)
    sink = sink_for(stack, f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/app/key", timeouts=Timeouts(1.5, 1))
    begin = time.monotonic()
    with pytest.raises(OutputError, match="no answer from the other end in time"):
        sink.write(shot(0))
    assert time.monotonic() - begin < 60  # the limit begins once the process has started
    assert ticks > 10


def test_a_peer_that_stops_reading(stack: ExitStack) -> None:
    port = free_port()
    url = f"rtmp://127.0.0.1:{port}/app/key"
    peer = receiver(stack, url, "flv")
    wait_for(lambda: listens("tcp", port))
    sink = sink_for(stack, url, bitrate=80_000_000, timeouts=Timeouts(60, 4))
    sink.write(noise(0))
    wait_for(lambda: (sink.write(noise(1)), peer.frames)[1])
    os.kill(peer.process.pid, signal.SIGSTOP)
    slowest = 0.0
    with pytest.raises(OutputError, match="no answer from the other end in time"):
        for i in range(300):
            before = time.monotonic()
            sink.write(noise(i % 4))
            slowest = max(slowest, time.monotonic() - before)
    assert slowest < 30, "four seconds and what a busy machine adds"
    begin = time.monotonic()
    sink.abort()
    assert time.monotonic() - begin < 10


def test_a_goodbye_that_is_not_answered_does_not_hang(stack: ExitStack, gstreamer: None, tmp_path: Path) -> None:
    port = free_port()
    peer = recorder(stack, port, tmp_path / "kept.h264")
    sink = sink_for(stack, f"rtsp://127.0.0.1:{port}/live", timeouts=Timeouts(60, 4))
    play(sink, 1)
    os.kill(peer.process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        sink.close()  # whether RTSP's goodbye wants an answer is the library's affair
    except OutputError as error:
        assert "in time" in str(error) or "takes nothing" in str(error)
    assert time.monotonic() - begin < 30


def test_srt_says_what_this_build_has(stack: ExitStack) -> None:
    """PyAV's FFmpeg has no SRT, which is said at once; with one that has, nobody listens here."""
    with pytest.raises((UsageError, OutputError)) as caught:
        sink_for(
            stack, f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}?passphrase=s3cret", timeouts=Timeouts(2, 1)
        ).write(shot(0))
    assert "s3cret" not in str(caught.value) + caught.value.hint
    if isinstance(caught.value, UsageError):
        assert "no SRT" in str(caught.value) and "ffmpeg -i -" in caught.value.hint


def test_wrong_wishes_are_told_at_once() -> None:
    for url, wishes in (
        ("http://host/x", {}),
        ("out.mkv", {}),
        ("rtmp://host/a/b", {"encoder": "hevc"}),
        ("rtsp://host/a", {"encoder": "vp9"}),
        ("rtsp://host/a", {"bitrate": 2}),
    ):
        with pytest.raises(UsageError):
            PushSink(url, **wishes)  # type: ignore[arg-type]


def test_files_of_the_current_folder_are_not_taken_for_libraries(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("av.py", "numpy.py", "crispstream.py"):
        (tmp_path / name).write_text("open('imported', 'w')\nraise ImportError('not a library')\n")
    monkeypatch.chdir(tmp_path)
    sink = sink_for(stack, f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
    sink.write(shot(0))  # returns once the process says that it is open
    sink.close()
    assert not (tmp_path / "imported").exists()


def test_the_process_ends_with_its_parent(stack: ExitStack) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from shots import children, shot
from crispstream.sinks.push import PushSink
sink = PushSink("udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
sink.write(shot(0))
print(*children(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_pusher(pid)
        os.kill(pid, signal.SIGINT)  # Ctrl-C and systemd's SIGTERM are for the parent
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert is_pusher(pid)
        parent.kill()
    wait_for(lambda: not is_pusher(pid))


def test_a_killed_encoder_is_told_and_nothing_is_left(stack: ExitStack) -> None:
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    files = descriptors()
    for _ in range(3):
        sink = sink_for(stack, url)
        sink.write(shot(0))
        (pid,) = [pid for pid in children() if is_pusher(pid)]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(OutputError, match="SIGKILL"):
            play(sink, 2)
        sink.abort()
        sink.abort()
        sink.close()
    wait_for(lambda: descriptors() <= files)
