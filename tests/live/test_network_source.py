# SPDX-License-Identifier: Apache-2.0
"""Streams from real servers on 127.0.0.1: RTSP that dies, freezes and babbles; HTTP and UDP."""

from __future__ import annotations

import gc
import http.server
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from time import monotonic, sleep

import av
import pytest
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from media.clips import NEVER_ZERO, add_late_stream
from media.clips import write_clip as write_film
from ports import free_port
from rtsp_server import Babbler, RtspServer, missing_package
from stand_ins import wait_for

from crispstream.errors import InputError, UsageError
from crispstream.frame import ChromaSiting, Frame, Matrix, PixelFormat, Range
from crispstream.live.protocol import CAPTURED, EndOfSource, Timeouts
from crispstream.sources import hardware, network
from crispstream.sources.network import NetworkSource

MISSING = missing_package()
needs_server = pytest.mark.skipif(MISSING is not None, reason=f"needs the Debian package {MISSING}")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the Debian package ffmpeg")
PATIENT = Timeouts(open=120, read=60)
"""For streams that flow: a busy machine may let a packet wait."""
SHORT = Timeouts(open=120, read=4)
"""For senders that fall silent. Until they do, the machine may freeze for two seconds."""
SLACK = 15.0
"""Seconds that a busy machine may add to a timeout; without one it would be for ever."""
SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def rtsp() -> Iterator[RtspServer]:
    with RtspServer() as server:
        yield server


@contextmanager
def opened(url: str, timeouts: Timeouts = PATIENT, transport: str = "tcp") -> Iterator[NetworkSource]:
    source = NetworkSource(url, timeouts, transport)
    try:
        source.open()
        yield source
    finally:
        source.close()
        source.close()


def take(source: NetworkSource, frames: int) -> list[Frame]:
    got: list[Frame] = []
    while len(got) < frames:
        frame = source.read()
        if frame is not None:
            got.append(frame)
    return got


def failure(source: NetworkSource) -> tuple[InputError, float]:
    """What reading on comes to, and after how many seconds."""
    begin = monotonic()
    with pytest.raises(InputError) as caught:
        while True:
            source.read()
    return caught.value, monotonic() - begin


@needs_server
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_frames_have_the_right_size_and_growing_times(rtsp: RtspServer, transport: str) -> None:
    begin = monotonic()
    with opened(rtsp.url, transport=transport) as source:
        frames = take(source, 30)
    assert {(f.width, f.height, f.format) for f in frames} == {(320, 180, PixelFormat.I420)}
    assert all(a.seconds < b.seconds for a, b in pairwise(frames))  # type: ignore[operator]
    steps = sorted(float(b.seconds - a.seconds) for a, b in pairwise(frames))  # type: ignore[operator]
    assert steps[len(steps) // 2] == pytest.approx(0.04, abs=0.005)
    captured = [f.info[CAPTURED] for f in frames]
    assert captured == sorted(captured) and begin <= captured[0] and captured[-1] <= monotonic()
    assert frames[0].color.matrix is Matrix.BT601 and frames[0].color.range is Range.LIMITED
    assert frames[0].planes[0].std() > 0


@needs_server
def test_pictures_that_were_reordered_come_in_order() -> None:
    with RtspServer(options="bframes=2 b-adapt=false") as server, opened(server.url) as source:
        seconds = [frame.seconds for frame in take(source, 30)]
    assert seconds == sorted(set(seconds))  # type: ignore[type-var]


@needs_server
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_killed_server_is_noticed_and_another_size_follows(transport: str) -> None:
    with RtspServer() as server:
        with opened(server.url, SHORT, transport) as source:
            take(source, 5)
            server.kill()
            error, seconds = failure(source)
        assert not isinstance(error, EndOfSource)
        assert seconds < SHORT.read + SLACK
        server.start(size=(176, 144))
        with opened(server.url, transport=transport) as source:
            assert take(source, 1)[0].width == 176


@needs_server
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_frozen_server_is_noticed(transport: str) -> None:
    with RtspServer() as server, opened(server.url, SHORT, transport) as source:
        take(source, 5)
        server.freeze()
        error, seconds = failure(source)
        assert str(error).endswith("sent nothing for 4 s")
        assert SHORT.read - 0.5 < seconds < SHORT.read + SLACK
        begin = monotonic()
        with pytest.raises(InputError, match="sent nothing for 1 s"), opened(server.url, Timeouts(2, 1)):
            pass
        assert monotonic() - begin < 2 + SLACK


@needs_server
def test_a_connection_that_ends_is_gone_at_once(rtsp: RtspServer) -> None:
    """Python's collector hardly ever looks at what has lived as long as a connection does."""

    def containers() -> int:
        return sum(isinstance(thing, InputContainer) for thing in gc.get_objects())

    gc.collect()
    before = containers()
    gc.disable()
    try:
        with opened(rtsp.url) as source:
            take(source, 2)
            assert containers() == before + 1
        assert containers() == before
    finally:
        gc.enable()


def test_a_port_where_nobody_listens_fails_at_once() -> None:
    begin = monotonic()
    with pytest.raises(InputError, match="Connection refused"), opened(f"rtsp://127.0.0.1:{free_port()}/x"):
        pass
    assert monotonic() - begin < 20


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp", "rtmp"])
def test_garbage_is_an_error_within_the_open_timeout(scheme: str) -> None:
    garbage = bytes(range(256)) * 40
    with Babbler(garbage) as server:
        begin = monotonic()
        with pytest.raises(InputError), opened(f"{scheme}://127.0.0.1:{server.port}/live/x", Timeouts(3, 1)):
            pass
        assert monotonic() - begin < 3 + SLACK


@needs_server
def test_user_and_password_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RtspServer(user=f"bob:{SECRET}") as server:
        with opened(server.url) as source:
            take(source, 2)
            told = [source.name]
            server.kill()
            told += ["".join(traceback.format_exception(failure(source)[0]))]
        server.start()
        wrong = server.url.replace("bob:", "eve:")
        for url in (wrong, wrong.replace("/stream", "/other"), f"http://eve:{SECRET}@127.0.0.1:{server.port}/x"):
            with pytest.raises(InputError) as caught, opened(url):
                pass
            told += ["".join(traceback.format_exception(caught.value)), caught.value.hint]
        assert any("wants another user or password" in text for text in told)
    with pytest.raises(UsageError) as usage:
        NetworkSource(f"gopher://bob:{SECRET}@127.0.0.1/x")
    everything = "\n".join([*told, str(usage.value), usage.value.hint, caplog.text])
    assert "rtsp://***@127.0.0.1" in everything
    for secret in (SECRET, "bob", "eve"):
        assert secret not in everything


@needs_server
def test_a_server_that_names_a_length_is_still_one_to_come_back_to(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "clip.avi", 3, "mjpeg", "yuvj420p")
    with RtspServer(file=film) as server, opened(server.url) as source:
        assert source._container is not None and source._container.duration
        take(source, 5)
        server.kill()
        assert not isinstance(failure(source)[0], EndOfSource)


@needs_server
def test_hardware_that_fails_is_no_reason_to_fail(rtsp: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no NVIDIA driver, opening the decoder fails after the stream was opened."""
    try:
        av.CodecContext.create("h264", "r", HWAccel("cuda"))
    except Exception:
        monkeypatch.setattr(network, "accelerator", lambda: HWAccel("cuda", allow_software_fallback=True))
    monkeypatch.setattr(hardware, "_works", True)
    with opened(rtsp.url) as source:
        assert len(take(source, 3)) == 3


def test_what_is_no_stream_is_refused() -> None:
    for url in ("file:///etc/passwd", "/dev/video0", "concat:a|b", "pipe:0"):
        with pytest.raises(UsageError, match="is no stream"):
            NetworkSource(url)
    with pytest.raises(UsageError, match="unknown RTSP transport 'http'"):
        NetworkSource("rtsp://127.0.0.1/x", transport="http")


def test_a_protocol_that_ffmpeg_lacks_is_said_to_be_so() -> None:
    """PyAV's wheels come without SRT."""
    source = NetworkSource("srt://127.0.0.1:9", Timeouts(2, 1))
    try:
        source.open()
    except UsageError as error:
        assert "cannot read srt streams" in str(error) and "srtsrc" in error.hint
    except InputError as error:  # a PyAV that was built with it finds nobody there
        assert "cannot" in str(error) or "sent nothing" in str(error)
    finally:
        source.close()


def write_clip(
    path: Path, seconds: float = 1.0, codec: str = "libx264", pixel_format: str = "yuv420p", noise: bool = False
) -> Path:
    """A grey that grows lighter, or noise; a key picture every fifth."""
    random = Random(1)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, 25, options={"tune": "zerolatency"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format  # type: ignore[union-attr]
        stream.codec_context.gop_size = 5
        for index in range(round(seconds * 25)):
            picture = av.VideoFrame(64, 48, pixel_format)
            for plane in picture.planes:
                size = plane.buffer_size
                plane.update(random.randbytes(size) if noise else bytes([index]) * size)
            container.mux(stream.encode(picture))  # type: ignore[union-attr]
        container.mux(stream.encode(None))  # type: ignore[union-attr]
    return path


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files in ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def streaming(head: bytes, parts: Iterator[bytes], pause: float) -> Iterator[str]:
    """A live HTTP response: ``parts`` one after the other, then the connection stays open and silent."""
    done = threading.Event()

    class Live(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", head.decode())
            self.end_headers()
            try:
                for part in parts:
                    self.wfile.write(part)
                    sleep(pause)
                done.wait(120)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Live)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/live"
    done.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_mpeg_ts_over_http_then_silence(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.ts", 2).read_bytes()
    parts = iter([data[i : i + 1880] for i in range(0, len(data), 1880)])
    with streaming(b"video/mp2t", parts, 0.02) as url, opened(url, SHORT) as source:
        frames = take(source, 40)
        assert {(f.width, f.height) for f in frames} == {(64, 48)}
        assert all(a.pts < b.pts for a, b in pairwise(frames))  # type: ignore[operator]
        error, seconds = failure(source)
        assert "sent nothing for 4 s" in str(error) and seconds < SHORT.read + SLACK


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    """Ten pictures, and sound that goes on for twelve seconds."""
    path = tmp_path / "clip.ts"
    with av.open(path, "w", container_options={"muxrate": "400000"}) as container:
        video = container.add_stream("libx264", 25, options={"tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("mp2", rate=48000)
        for index in range(300):
            if index < 10:
                container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
            sound = av.AudioFrame(format="s16", layout="stereo", samples=1920)
            sound.sample_rate, sound.pts, sound.time_base = 48000, index * 1920, Fraction(1, 48000)
            container.mux(audio.encode(sound))
    data = path.read_bytes()
    step = len(data) // 600 // 188 * 188
    parts = iter([data[i : i + step] for i in range(0, len(data), step)])
    with streaming(b"video/mp2t", parts, 0.02) as url, opened(url, SHORT) as source:
        take(source, 5)
        error, seconds = failure(source)
    assert str(error).endswith("sent no picture for 4 s") and seconds < SHORT.read + SLACK


def test_motion_jpeg_has_the_times_of_its_arrival(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", 0.6, "mjpeg", "yuvj420p")
    with av.open(tmp_path / "clip.avi") as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    parts = (b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(p), p) for p in pictures)
    begin = monotonic()
    with streaming(b"multipart/x-mixed-replace; boundary=b", parts, 0.1) as url, opened(url) as source:
        frames = take(source, 12)
    seconds = [float(f.seconds) for f in frames]  # type: ignore[arg-type]
    assert seconds == pytest.approx([f.info[CAPTURED] for f in frames], abs=1e-5)
    assert begin <= seconds[0] and seconds == sorted(seconds) and seconds[-1] <= monotonic()
    assert frames[0].color.siting is ChromaSiting.CENTER and frames[0].color.range is Range.FULL


def test_a_recording_over_http_plays_in_real_time_and_ends(tmp_path: Path, web: str) -> None:
    write_clip(tmp_path / "clip.mp4", 1)
    with opened(f"{web}/clip.mp4") as source:
        begin = monotonic()
        frames = take(source, 25)
        assert monotonic() - begin > 0.8
        assert isinstance(failure(source)[0], EndOfSource)
    assert [f.planes[0][0, 0] for f in frames[:3]] == pytest.approx([0, 1, 2], abs=1)


def test_a_recording_in_which_a_stream_turns_up_late_ends(tmp_path: Path, web: str) -> None:
    add_late_stream(write_film(tmp_path / "clip.flv", frames=25, audio="aac"))
    code = f"""
from crispstream.live.protocol import EndOfSource
from crispstream.sources.network import NetworkSource
source, frames = NetworkSource("{web}/clip.flv"), 0
source.open()
try:
    while True:
        frames += source.read() is not None
except EndOfSource:
    print(frames)
"""
    environment = {**os.environ, **NEVER_ZERO}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "25\n", done.stderr


def test_a_missing_page_is_an_error(web: str) -> None:
    with pytest.raises(InputError, match="404"), opened(f"{web}/none.ts"):
        pass


def playlist(*segments: str, live: bool = False) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
    for segment in segments:
        lines += ["#EXTINF:1.0,", segment]
    return "\n".join([*lines, *([] if live else ["#EXT-X-ENDLIST"]), ""])


def test_a_live_playlist_whose_server_goes_away_is_one_to_come_back_to(tmp_path: Path) -> None:
    """Paced like a recording; and a recording of the same segment ends."""
    write_clip(tmp_path / "clip.ts", 1)
    (tmp_path / "live.m3u8").write_text(playlist("clip.ts", live=True))
    (tmp_path / "film.m3u8").write_text(playlist("clip.ts"))
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    port = free_port()
    with subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: connects(port))
            with opened(f"http://127.0.0.1:{port}/film.m3u8") as source:
                take(source, 20)
                assert isinstance(failure(source)[0], EndOfSource)
            with opened(f"http://127.0.0.1:{port}/live.m3u8") as source:
                begin = monotonic()
                take(source, 15)
                assert monotonic() - begin > 0.4
                server.kill()
                error, seconds = failure(source)
        finally:
            server.kill()
    assert not isinstance(error, EndOfSource) and "ended the connection" in str(error)
    assert seconds < 60


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_playlist_plays_but_reads_no_file_of_this_machine(tmp_path: Path, web: str) -> None:
    segment = write_clip(tmp_path / "clip.ts", 1)
    (tmp_path / "good.m3u8").write_text(playlist("clip.ts"))
    with opened(f"{web}/good.m3u8") as source:
        assert len(take(source, 20)) == 20
    for name in (f"file://{segment}", f"concat:{segment}", f"subfile,,start,0,end,0,,:{segment}"):
        (tmp_path / "bad.m3u8").write_text(playlist(name))
        with pytest.raises(InputError), opened(f"{web}/bad.m3u8", Timeouts(3, 1)) as source:
            take(source, 1)
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{segment}'\n")
    with pytest.raises(InputError), opened(f"{web}/list.txt", Timeouts(3, 1)) as source:
        take(source, 1)


def test_damaged_packets_are_passed_over_and_told_once(
    tmp_path: Path, web: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(write_clip(tmp_path / "clip.ts", 3, noise=True).read_bytes())
    for start in range(188 * 60, len(data) - 188, 188 * 7):  # bytes within packets, not their headers
        data[start + 60 : start + 120] = b"\xff" * 60
    (tmp_path / "hurt.ts").write_bytes(bytes(data))
    with opened(f"{web}/hurt.ts") as source:
        frames = []
        with pytest.raises(InputError):
            while True:
                frames += take(source, 1)
        assert source.damaged > 1
    assert len(frames) > 20
    assert any(frame.discontinuity for frame in frames)
    assert sum("damaged packets" in record.message for record in caplog.records) == 1


@needs_ffmpeg
def test_mpeg_ts_over_udp() -> None:
    port = free_port()
    command = "ffmpeg -v error -nostdin -re -f lavfi -i testsrc2=s=64x48:r=25 -c:v libx264 -tune zerolatency -g 10"
    sender = subprocess.Popen([*command.split(), "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"])
    try:
        with opened(f"udp://127.0.0.1:{port}", SHORT) as source:
            frames = take(source, 20)
            assert {(f.width, f.height) for f in frames} == {(64, 48)}
            sender.kill()
            assert failure(source)[1] < SHORT.read + SLACK
    finally:
        sender.kill()
        sender.wait()


@needs_ffmpeg
def test_rtmp_and_its_key_appears_nowhere() -> None:
    port = free_port()
    url = f"rtmp://127.0.0.1:{port}/live/{SECRET}"
    command = "ffmpeg -v error -nostdin -re -f lavfi -i testsrc2=s=64x48:r=25 -c:v libx264 -tune zerolatency -g 10"
    sender = subprocess.Popen([*command.split(), "-f", "flv", "-listen", "1", url])
    try:
        begin = monotonic()
        source = NetworkSource(url, SHORT)
        while True:  # until ffmpeg listens
            try:
                source.open()
                break
            except InputError as error:
                assert "refused" in str(error) and monotonic() - begin < 60
                sleep(0.1)
        assert {(f.width, f.height) for f in take(source, 20)} == {(64, 48)}
        sender.kill()
        error, seconds = failure(source)
        assert seconds < SHORT.read + SLACK
        assert SECRET not in f"{source.name} {error}" and source.name.endswith("/live/***")
    finally:
        source.close()
        sender.kill()
        sender.wait()
