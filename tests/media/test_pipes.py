# SPDX-License-Identifier: Apache-2.0
"""Frames on standard input and output: nothing else may go there, and either end may close at any time."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import ODD_TIMES, Identity, pattern, read_clip, write_clip

from crispstream import run
from crispstream.errors import InputError, UsageError
from crispstream.frame import ChromaSiting, Frame, PixelFormat, Range, plane_shapes
from crispstream.sources.raw import RawSource, rawvideo, read_line

HERE = Path(__file__).parent
# The command line with a deblurrer that changes nothing, so that bytes can be compared.
CLI = """
    import sys
    from clips import Identity
    from crispstream import cli, files
    real = files.run
    options = ("preset", "device", "strength", "backend", "gating", "threads")
    def run(src, dst, **given):
        return real(src, dst, deblurrer=Identity(), **{k: v for k, v in given.items() if k in KEPT})
    files.run = run
    cli.main()
"""
KEPT = {"size", "pixel_format", "rate", "overwrite", "progress", "crf", "encoder"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", f"KEPT = {KEPT}\n" + textwrap.dedent(CLI), "run", *map(str, arguments)]


def crispstream(*arguments: object, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.run(command(*arguments), capture_output=True, env=environment, timeout=120, **streams)


def frames(pixel_format: PixelFormat, width: int, height: int, count: int = 5) -> bytes:
    return b"".join(
        np.random.default_rng(index).integers(0, 256, shape, np.uint8).tobytes()
        for index in range(count)
        for shape in plane_shapes(pixel_format, width, height)
    )


def y4m(header: str, data: bytes, frame_bytes: int) -> bytes:
    pieces = [data[i : i + frame_bytes] for i in range(0, len(data), frame_bytes)]
    return header.encode() + b"\n" + b"".join(b"FRAME\n" + piece for piece in pieces)


HEADERS = [
    "YUV4MPEG2 W33 H21 F30000:1001 Ip A4:3 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=FULL",
    "YUV4MPEG2 W33 H21 F25:1 Ip A0:0 C420jpeg XYSCSS=420JPEG XCOLORRANGE=LIMITED",
    "YUV4MPEG2 W33 H21 F24:1 Ip A1:1 C420paldv XYSCSS=420PALDV",
]


@pytest.mark.parametrize("header", HEADERS)
def test_yuv4mpeg_passes_to_the_byte(header: str) -> None:
    data = y4m(header, frames(PixelFormat.I420, 33, 21), 33 * 21 + 2 * 17 * 11)
    done = crispstream("-", "-", input=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert done.stderr.startswith(b"-: 5 frames, 33x21")


@pytest.mark.parametrize("name", ["bgr24", "rgb24", "nv12", "i420", "yuv420p"])
@pytest.mark.parametrize("size", [(32, 20), (33, 21)])
def test_rawvideo_passes_to_the_byte(name: str, size: tuple[int, int]) -> None:
    kind = PixelFormat.I420 if name == "yuv420p" else PixelFormat[name.upper()]
    data = frames(kind, *size)
    done = crispstream("-", "-", "--size", f"{size[0]}x{size[1]}", "--pixel-format", name, input=data)
    assert (done.returncode, done.stdout) == (0, data)


def test_json_and_remarks_stay_out_of_the_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", audio="aac", pts=ODD_TIMES)
    done = crispstream(path, "-", "--json")
    report = json.loads(done.stderr)
    assert done.stdout.startswith(b"YUV4MPEG2 W64 H48 ") and len(done.stdout) > 12 * 64 * 48
    assert report["skipped"] == ["stream 1 (audio, aac): yuv4mpeg cannot hold it"]
    assert "their times are lost" in report["warnings"][0]
    (tmp_path / "out.y4m").write_bytes(done.stdout)
    assert read_clip(tmp_path / "out.y4m").planes == read_clip(path).planes


def test_a_film_as_rawvideo(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", color=(1, 1, 1, 1))
    done = crispstream(path, "-", "--pixel-format", "nv12")
    luma = np.frombuffer(done.stdout, np.uint8).reshape(12, 72, 64)[:, :48]
    assert [p.tobytes() for p in luma] == [p[0] for p in read_clip(path).planes]


def test_raw_frames_become_a_film(tmp_path: Path) -> None:
    data = frames(PixelFormat.BGR24, 64, 48)
    options = ("--size", "64x48", "--pixel-format", "bgr24", "--rate", "30000/1001")
    done = crispstream("-", tmp_path / "out.mp4", *options, input=data)
    assert done.returncode == 0, done.stderr
    assert read_clip(tmp_path / "out.mp4").times == [Fraction(1001 * i, 30000) for i in range(5)]


@pytest.mark.parametrize("options", [(), ("--size", "64x48", "--pixel-format", "i420")])
def test_an_incomplete_last_frame_is_named_and_left_out(tmp_path: Path, options: tuple[str, ...]) -> None:
    data = frames(PixelFormat.I420, 64, 48)
    data = data if options else y4m("YUV4MPEG2 W64 H48 F25:1", data, 64 * 72)
    done = crispstream("-", tmp_path / "out.mp4", *options, input=data[:-100])
    assert done.returncode == 0
    assert b"warning: frame 5 of standard input is incomplete, 4508 of 4608 bytes: left out" in done.stdout
    assert len(read_clip(tmp_path / "out.mp4").pts) == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", b"standard input is empty"),
        (b"Dear diary\n", b"standard input is not yuv4mpeg (write it with"),
        (b"\0" * 5000, b"standard input is not yuv4mpeg"),
        (b"YUV4MPEG2 W64 F25:1\n", b"header of standard input is damaged"),
        (b"YUV4MPEG2 W64 H0 F25:1\n", b"is 64x0"),
        (b"YUV4MPEG2 W99999 H2 F25:1\n", b"is 99999x2"),
        (b"YUV4MPEG2 W64 H48 F25:1 C4xx\n", b"has chroma layout 4xx"),
        (b"YUV4MPEG2 W64 H48 F25:1\n", b"holds no frame"),
        (b"YUV4MPEG2 W64 H48 F25:1\nFRA", b"frame 1 of standard input is incomplete, 0 of 4608"),
        (b"YUV4MPEG2 W64 H48 F25:1\nFRAME\nabc", b"frame 1 of standard input is incomplete, 3 of 4608"),
    ],
)
def test_what_is_no_yuv4mpeg(tmp_path: Path, data: bytes, message: bytes) -> None:
    done = crispstream("-", tmp_path / "out.mp4", input=data)
    assert done.returncode == 3 and message in done.stderr and done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_frame_marker_ends_a_film_that_plays(tmp_path: Path) -> None:
    data = bytearray(y4m("YUV4MPEG2 W64 H48 F25:1", frames(PixelFormat.I420, 64, 48), 64 * 72))
    data[24 + 2 * (6 + 64 * 72) : 24 + 2 * (6 + 64 * 72) + 5] = b"EMARF"
    done = crispstream("-", tmp_path / "out.mp4", input=bytes(data))
    assert done.returncode == 3 and b"frame 3 of standard input does not begin with FRAME" in done.stderr
    assert len(read_clip(tmp_path / "out.mp4").pts) == 2


def test_who_reads_may_stop_early(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=300)
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen(
        command(path, "-", "--quiet"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("descriptor", "code"), [(0, 3), (1, 4)])
def test_closed_from_the_start(descriptor: int, code: int) -> None:
    data = y4m(HEADERS[0], frames(PixelFormat.I420, 33, 21), 33 * 21 + 2 * 17 * 11)
    script = ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *command("-", "-")]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(script, input=data, capture_output=True, env=environment, timeout=120)
    name = (b"input", b"output")[descriptor]
    assert (done.returncode, done.stderr) == (code, b"crispstream: error: standard " + name + b" is closed\n")


def test_terminals_are_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=2)
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    keys, terminal = pty.openpty()
    try:
        for arguments, streams in ((("-", "-"), {"stdin": terminal}), ((path, "-"), {"stdout": terminal})):
            done = subprocess.run(
                command(*arguments), **{"stdout": subprocess.PIPE, **streams}, stderr=subprocess.PIPE,
                env=environment, timeout=120,
            )  # fmt: skip
            assert done.returncode == 2 and b"is a terminal" in done.stderr
    finally:
        os.close(keys)
        os.close(terminal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_silent_pipe_does_not_hold_up_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    data = y4m("YUV4MPEG2 W64 H48 F25:1", frames(PixelFormat.I420, 64, 48), 64 * 72)
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    progress = textwrap.dedent(CLI).replace("cli.main()", "")
    program = f"""
KEPT = {KEPT}
{progress}
from crispstream.sinks.video import VideoSink
write = VideoSink.write
def told(self, frame):
    write(self, frame)
    print("frame", flush=True)
VideoSink.write = told
cli.main()
"""
    arguments = [sys.executable, "-c", program, "run", "-", str(tmp_path / "out.mp4"), "--quiet"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(data[:-10])
        process.stdin.flush()
        for _ in range(4):
            assert process.stdout.readline() == b"frame\n"
        process.send_signal(number)
        assert process.wait(60) == 130  # while its standard input is still open
    assert len(read_clip(tmp_path / "out.mp4").pts) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
def test_a_reader_that_takes_nothing_does_not_hold_up_a_signal(
    tmp_path: Path, number: signal.Signals, kind: str
) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=60, size=(320, 240))
    if kind == "fifo":
        os.mkfifo(tmp_path / "out")
        reading = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(tmp_path / "out", os.O_WRONLY)
    elif kind == "pipe":
        reading, writing = os.pipe()
    else:
        reading, writing = (end.detach() for end in socket.socketpair())
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    try:
        with subprocess.Popen(
            command(path, "-", "--quiet"), stdout=writing, stderr=subprocess.PIPE, env=environment
        ) as process:
            assert process.stderr is not None
            waiting, before, late = 0, -1, time.monotonic() + 60
            while waiting == 0 or waiting != before or select.select([], [writing], [], 0)[1]:  # nothing more fits
                assert time.monotonic() < late
                time.sleep(0.3)
                before, waiting = (
                    waiting,
                    int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), sys.byteorder),
                )
            assert os.get_blocking(writing), "whoever shares the pipe writes as before"
            process.send_signal(number)
            assert process.wait(60) == 130  # nobody reads meanwhile, so that without the signal it would not end
            assert process.stderr.read() == b"crispstream: error: interrupted\n"
        assert os.read(reading, 9) == b"YUV4MPEG2"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_slow_reader_gets_whole_frames_after_a_signal(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=400, size=(320, 240))
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    program = command(path, "-", "--quiet")
    program[2] = f"from crispstream.sinks import raw\nraw._PATIENCE = 60\n{program[2]}"  # we may be late ourselves
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        data = process.stdout.read(200_000)
        process.send_signal(signal.SIGTERM)
        while piece := process.stdout.read(200_000):
            data += piece
            time.sleep(0.1)
        assert process.wait(60) == 130
    _, _, rest = data.partition(b"\n")
    count, left = divmod(len(rest), 6 + 320 * 240 * 3 // 2)
    assert left == 0 and 2 <= count < 400


@pytest.mark.parametrize(
    ("chroma", "name"),
    [("422", "yuv422p"), ("444", "yuv444p"), ("411", "yuv411p"), ("mono", "gray"), ("420p10", "yuv420p10le")],
)
def test_other_chroma_layouts_are_converted_and_told(tmp_path: Path, chroma: str, name: str) -> None:
    planes = []
    grey = av.VideoFrame(64, 48, "gray")
    view = np.frombuffer(memoryview(grey.planes[0]), np.uint8).reshape(48, -1)
    view[:, :64] = pattern(3, 64, 48) // 2 + 60
    picture = grey.reformat(format=name, src_color_range=2, dst_color_range=2)
    depth = 2 if name.endswith("10le") else 1
    for plane in picture.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        planes.append(rows[:, : plane.width * depth].tobytes())
    (tmp_path / "in.y4m").write_bytes(f"YUV4MPEG2 W64 H48 F25:1 C{chroma} XCOLORRANGE=FULL\nFRAME\n".encode())
    with (tmp_path / "in.y4m").open("ab") as file:
        file.write(b"".join(planes))
    source = RawSource(tmp_path / "in.y4m")
    (frame,) = source
    source.close()
    assert isinstance(frame, Frame) and frame.format is PixelFormat.I420
    assert np.abs(frame.planes[0].astype(int) - view[:, :64]).max() <= 1
    assert source.warnings == [f"pixel format {name} is processed as 8-bit YUV 4:2:0"]


def test_what_yuv4mpeg_says_of_colour(tmp_path: Path) -> None:
    data = frames(PixelFormat.I420, 33, 21, 1)
    for header, siting, code_range in zip(
        HEADERS,
        (ChromaSiting.LEFT, ChromaSiting.CENTER, ChromaSiting.LEFT),
        (Range.FULL, Range.LIMITED, Range.LIMITED),
        strict=True,
    ):
        (tmp_path / "in.y4m").write_bytes(y4m(header, data, len(data)))
        (frame,) = RawSource(tmp_path / "in.y4m")
        assert isinstance(frame, Frame)
        assert (frame.color.siting, frame.color.range) == (siting, code_range)


def test_raw_files(tmp_path: Path) -> None:
    (tmp_path / "in.rgb").write_bytes(frames(PixelFormat.RGB24, 64, 48))
    source = RawSource(tmp_path / "in.rgb", rawvideo((64, 48), "rgb24", Fraction(25)))
    assert source.total == 5
    source.close()
    report = run(tmp_path / "in.rgb", tmp_path / "out.mp4", deblurrer=Identity(), size=(64, 48), pixel_format="rgb24")
    assert report.frames == 5
    report = run(tmp_path / "out.mp4", tmp_path / "out.y4m", deblurrer=Identity())
    assert (report.encoder, len(read_clip(tmp_path / "out.y4m").pts)) == ("yuv4mpeg", 5)


def test_a_descriptor_beyond_the_first_1024_is_read(tmp_path: Path) -> None:
    """Where many files are open, as in a server, select() fails."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 2048:
        pytest.skip("this system lets nobody open so many files")
    (tmp_path / "in.y4m").write_bytes(b"YUV4MPEG2\nFRAME\n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    try:
        with (tmp_path / "in.y4m").open("rb") as file:
            high = fcntl.fcntl(file, fcntl.F_DUPFD, 1024)
        reading = read_line(high)
        with pytest.raises(StopIteration) as line:
            next(reading)
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert line.value.value == b"YUV4MPEG2\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (64, 48)}, "need a pixel format"),
        ({"size": (64, 48), "pixel_format": "yuyv"}, "unknown pixel format 'yuyv'"),
        ({"rate": Fraction(30)}, "--rate is for what has none"),
        ({"rate": Fraction(0)}, "0 is no frame rate"),
        ({"size": (64, 48), "pixel_format": "i420", "start": 1}, "need a file with an index"),
    ],
)
def test_raw_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(UsageError, match=message):
        run(path, tmp_path / "out.mkv", deblurrer=Identity(), **options)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_wrong_size_is_told_where_less_than_a_frame_is_there(tmp_path: Path) -> None:
    (tmp_path / "in.raw").write_bytes(bytes(100))
    with pytest.raises(InputError, match="incomplete, 100 of 4608 bytes") as caught:
        run(tmp_path / "in.raw", tmp_path / "out.mp4", deblurrer=Identity(), size=(64, 48), pixel_format="nv12")
    assert "--size" in caught.value.hint
