# SPDX-License-Identifier: Apache-2.0
"""Every example runs and does what it says: its frames are those of the API."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from media.clips import read_clip, write_clip

from crispstream import Deblurrer, Frame
from crispstream.sinks.video import VideoSink
from crispstream.sources.video import VideoSource

EXAMPLES = Path(__file__).parent.parent / "examples"
TESTED = {"asyncio_streams.py", "ffmpeg_pipe.py", "ffmpeg_pipe.sh", "gstreamer_app.py", "many_streams.py"}
TESTED |= {"numpy_only.py", "opencv_loop.py", "video_file.py"}
DIST_PACKAGES = "/usr/lib/python3/dist-packages"

Picture = np.ndarray


def example(name: str, *arguments: object, stdin: bytes = b"", **variables: str) -> bytes:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | variables
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True, timeout=120, env=environment).stdout


def picture(shift: int = 0) -> Picture:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([(rows * 3 + shift) % 256, (columns * 2) % 256, (rows + columns) % 256], 2).astype(np.uint8)


def blurred(shift: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> Picture:
    """Blocks that move and are smeared sideways: nothing that the network leaves as it is."""
    width, height = size
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 216, (-(-height // 12), -(-width // 12), 1)).repeat(12, 0).repeat(12, 1)[:height, :width]
    smeared = np.mean([np.roll(blocks, d + shift, 1) for d in range(-4, 5)], 0)
    return smeared.repeat(3, 2).astype(np.uint8)


def restored(pictures: list[Picture]) -> list[Picture]:
    """What the API makes of a stream of them."""
    with Deblurrer("nano") as deblur:
        return [frame.planes[0] for frame in deblur.stream(map(Frame.from_array, pictures))]


def clip(path: Path, pictures: list[Picture]) -> Path:
    """A video file without loss."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (width, height))
    assert writer.isOpened()
    for image in pictures:
        writer.write(image)
    writer.release()
    return path


def read(path: Path) -> list[Picture]:
    capture, pictures = cv2.VideoCapture(str(path)), []
    while (arrived := capture.read())[0]:
        pictures.append(arrived[1])
    capture.release()
    return pictures


def assert_restored(out: list[Picture], source: list[Picture]) -> None:
    """As many pictures, of the same sizes, with the API's pixels, which are not those that went in."""
    want = restored(source)
    assert len(out) == len(want) and all(np.array_equal(x, y) for x, y in zip(out, want, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(out, source, strict=True))


def test_every_example_is_tested() -> None:
    assert {p.name for p in EXAMPLES.iterdir() if p.is_file()} == TESTED


def test_every_example_says_how_to_start_it() -> None:
    for name in TESTED:
        assert f"examples/{name}" in (EXAMPLES / name).read_text(encoding="utf-8"), name


def test_numpy_only_gets_closer_to_the_truth() -> None:
    before, after = (float(line.split()[-1]) for line in example("numpy_only.py").splitlines())
    assert after > before


def test_ffmpeg_pipe_returns_every_whole_frame_in_order() -> None:
    sent = [picture(i) for i in range(4)]
    data = b"".join(p.tobytes() for p in sent)
    out = np.frombuffer(example("ffmpeg_pipe.py", "64x48", stdin=data + b"cut off"), np.uint8).reshape(4, 48, 64, 3)
    for got, want in zip(out, restored(sent), strict=True):
        assert np.array_equal(got, want)


def test_video_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "in.mp4", rate=Fraction(25))
    for index in range(5):
        sink.write(Frame.from_array(picture(index)))
    sink.close()
    assert b"5 frames" in example("video_file.py", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4"))
    out = VideoSource(tmp_path / "out.mp4")
    assert len(list(out)) == 5
    out.close()


def test_opencv_loop(tmp_path: Path) -> None:
    pictures = [blurred(i) for i in range(6)]
    example("opencv_loop.py", clip(tmp_path / "in.mkv", pictures), tmp_path / "out.mkv")
    assert_restored(read(tmp_path / "out.mkv"), pictures)


def test_many_streams(tmp_path: Path) -> None:
    sizes = ((64, 48), (96, 32), (64, 48))
    clips = [[blurred(i, size, n) for i in range(5 + n)] for n, size in enumerate(sizes)]
    sources = [clip(tmp_path / f"{n}.mkv", pictures) for n, pictures in enumerate(clips)]
    said = example("many_streams.py", tmp_path / "made/out", *sources).decode().splitlines()
    assert [line.split(" frames")[0] for line in said] == ["0.mkv: 5", "1.mkv: 6", "2.mkv: 7"]
    for number, pictures in enumerate(clips):
        assert_restored(read(tmp_path / "made/out" / f"{number}.mkv"), pictures)


def test_many_streams_end_when_one_cannot_be_written(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mkv", [blurred(0)])
    (tmp_path / "out/in.mkv").mkdir(parents=True)
    with pytest.raises(subprocess.CalledProcessError):
        example("many_streams.py", tmp_path / "out", source)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_ffmpeg_pipe_script(tmp_path: Path) -> None:

    def content(index: int, width: int, height: int) -> Picture:
        return blurred(index, (width, height))[..., 0]

    source = write_clip(tmp_path / "in.mp4", frames=6, content=content, audio="aac")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(EXAMPLES / "ffmpeg_pipe.sh"), str(source), str(tmp_path / "out.mkv"), "-c:v", "ffv1"]
    subprocess.run(command, check=True, timeout=120, env=os.environ | {"PATH": path})
    video = VideoSource(source)
    with Deblurrer("nano") as deblur:
        want = [tuple(plane.tobytes() for plane in frame.planes) for frame in deblur.stream(video)]
    video.close()
    before, after = read_clip(source), read_clip(tmp_path / "out.mkv")
    assert (len(want), after.size, after.codec) == (6, before.size, "ffv1")
    assert after.planes == want and after.planes != before.planes
    assert [stream["type"] for stream in after.streams] == ["video", "audio"]


@contextmanager
def asyncio_server(before: str = "") -> Iterator[int]:
    """The port on which the example listens, in a process that did ``before``; at the end it must go away in good
    order."""
    command = [sys.executable, "-c", f"{before}\nimport runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"]
    command = [sys.executable] if not before else command
    command += [str(EXAMPLES / "asyncio_streams.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout
            yield int(server.stdout.readline())
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=60)
            assert (server.returncode, errors) == (0, b"")
        finally:
            server.kill()


def test_asyncio_streams() -> None:
    """Three clients at once get what each would get alone."""
    clips = [[blurred(i, (64, 48 + 16 * n), n) for i in range(5)] for n in range(3)]

    def client(port: int, pictures: list[Picture]) -> list[Picture]:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as back:
            height, width, _ = shape = pictures[0].shape
            connection.sendall(b"%dx%d\n" % (width, height) + b"".join(p.tobytes() for p in pictures))
            size = pictures[0].nbytes
            return [np.frombuffer(back.read(size), np.uint8).reshape(shape) for _ in pictures]

    with asyncio_server() as port, ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(client, [port] * 3, clips))
    for out, pictures in zip(answers, clips, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(out, restored(pictures), strict=True))


# An engine that takes as long as the test likes: until the file is there.
HELD = """
import time
from pathlib import Path
from crispstream.runners.cpu import CpuRunner

process = CpuRunner._process

def held(self, frame, *rest):
    while frame.width == 1280 and not Path({go!r}).exists():
        time.sleep(0.01)
    return process(self, frame, *rest)

CpuRunner._process = held
"""


def test_the_loop_of_asyncio_streams_answers_while_the_engine_works(tmp_path: Path) -> None:
    """One client has sent a frame that takes a while; others get their answers before it gets its own."""
    large, go = blurred(0, (1280, 720)), tmp_path / "go"
    with asyncio_server(HELD.format(go=str(go))) as port:

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=60)

        with connect() as busy:
            busy.sendall(b"1280x720\n" + large.tobytes())
            for _ in range(3):
                with connect() as other, other.makefile("rb") as answer:
                    other.sendall(b"nonsense\n")
                    assert answer.readline() == b"send WIDTHxHEIGHT and a newline first\n"
            busy.setblocking(False)
            with pytest.raises(BlockingIOError):
                busy.recv(1)
            go.touch()
            busy.settimeout(60)
            with busy.makefile("rb") as back:
                restored_large = np.frombuffer(back.read(large.nbytes), np.uint8).reshape(large.shape)
            # Left open: the server must go away in good order with a client at hand.
            idle = connect()
            idle.sendall(b"64x48\n")
    idle.close()
    assert np.array_equal(restored_large, restored([large])[0])


def has_gstreamer() -> bool:
    code = "import gi; gi.require_version('GstVideo', '1.0'); from gi.repository import GstVideo"
    variables = os.environ | {"PYTHONPATH": DIST_PACKAGES}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True).returncode == 0


def missing_gi() -> pytest.MarkDecorator:
    packages = "python3-gi and gir1.2-gst-plugins-base-1.0"
    return pytest.mark.skipif(not has_gstreamer(), reason=f"{packages} are missing, or are for another Python")


@missing_gi()
@pytest.mark.parametrize("width", [64, 61], ids=["", "padded rows"])
def test_gstreamer_app(tmp_path: Path, width: int) -> None:
    pictures = [blurred(i, (width, 48)) for i in range(6)]
    padded = -(-3 * width // 4) * 4
    rows = [np.pad(p.reshape(48, 3 * width), ((0, 0), (0, padded - 3 * width))) for p in pictures]
    (tmp_path / "in.bgr").write_bytes(b"".join(r.tobytes() for r in rows))
    parse = f"rawvideoparse format=bgr width={width} height=48 framerate=25/1"
    source = f"filesrc location={tmp_path}/in.bgr ! {parse}"
    target = f"video/x-raw,format=RGB ! filesink location={tmp_path}/out.rgb"
    example("gstreamer_app.py", source, target, PYTHONPATH=DIST_PACKAGES)
    arrived = np.frombuffer((tmp_path / "out.rgb").read_bytes(), np.uint8).reshape(6, 48, padded)
    out = arrived[:, :, : 3 * width].reshape(6, 48, width, 3)[..., ::-1]
    assert_restored(list(out), pictures)


@missing_gi()
def test_gstreamer_app_keeps_the_times(tmp_path: Path) -> None:
    source = "videotestsrc num-buffers=8 pattern=ball ! video/x-raw,width=64,height=48,framerate=10/1"
    example("gstreamer_app.py", source, f"matroskamux ! filesink location={tmp_path}/out.mkv", PYTHONPATH=DIST_PACKAGES)
    out = VideoSource(tmp_path / "out.mkv")
    times = [float(frame.seconds or 0) for frame in out]
    out.close()
    assert np.allclose(times, np.arange(8) / 10, atol=0.002)


@missing_gi()
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("filesrc location=/nowhere", "fakesink"),
        ("videotestsrc num-buffers=5", "filesink location=/nowhere/out"),
        ("videotestsrc num-buffers=12 ! video/x-raw,width=640", "identity error-after=2 ! fakesink"),
        ("videotestsrc num-buffers=9 ! identity error-after=4", "fakesink"),
    ],
    ids=["source", "sink", "sink later", "source later"],
)
def test_gstreamer_app_says_what_failed(source: str, target: str) -> None:
    command = [sys.executable, str(EXAMPLES / "gstreamer_app.py"), source, target]
    variables = os.environ | {"PYTHONPATH": DIST_PACKAGES}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 1 and done.stderr.strip() and "Traceback" not in done.stderr, done.stderr
