# SPDX-License-Identifier: Apache-2.0
"""`crispstream live` from end to end, with real servers and real files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from media.clips import write_clip
from ports import free_port
from process import Live, Sample, flat
from rtsp_server import RtspServer, missing_package
from stand_ins import wait_for

from crispstream.commands.live import address, seconds
from crispstream.errors import UsageError

_MISSING = missing_package()
needs_server = pytest.mark.skipif(_MISSING is not None, reason=f"{_MISSING} is not installed")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", frames=50, size=(160, 96))


def frames_of(path: Path) -> list[float]:
    """Times of all frames, in seconds."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def test_a_file_in_real_time_into_all_that_is_local(clip: Path, tmp_path: Path) -> None:
    since = time.monotonic()
    film, shot = tmp_path / "out.mkv", tmp_path / "now.png"
    with Live(str(clip), "--to", str(film), "--to", str(shot), "--to", "-", "--pixel-format", "i420", "--quiet") as run:
        assert run.process.stdout is not None
        raw = run.process.stdout.read()
        assert run.wait() == 0, run.lines
    took = time.monotonic() - since
    assert took > 1.9, "two seconds of film take two seconds"
    times = frames_of(film)
    assert 0 < times[-1] < took and times == sorted(set(times))
    assert len(raw) % (160 * 96 * 3 // 2) == 0 and raw
    assert shot.read_bytes().startswith(b"\x89PNG")


def test_sigterm_finishes_the_film(clip: Path, tmp_path: Path) -> None:
    film = tmp_path / "out.mkv"
    with Live(str(clip), "--loop", "--to", str(film), "--json") as run:
        run.logged("out.mkv: open")
        assert run.logged("engine: ").startswith("engine: nano by onnxruntime")
        time.sleep(1)
        assert run.end() == 0
        report = run.report()
    assert len(frames_of(film)) == report["sinks"][0]["frames"] > 0
    frames, drops = report["frames"], report["drops"]
    assert frames["out"] == report["sinks"][0]["frames"] + report["sinks"][0]["dropped"]
    assert 0 <= frames["in"] - frames["out"] - sum(drops.values()) <= 2


def test_signals_after_the_first_cost_no_film_and_a_second_interrupt_ends_at_once(clip: Path, tmp_path: Path) -> None:
    """Systemd may send SIGHUP right after SIGTERM; the film takes a while to close."""
    for first in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        film = tmp_path / f"{first.name}.mkv"
        with Live(str(clip), "--loop", "--to", str(film)) as run:
            run.logged("mkv: open")
            run.process.send_signal(first)
            while run.process.poll() is None:  # until it is gone
                run.process.send_signal(signal.SIGHUP)
                run.process.send_signal(signal.SIGTERM)
                time.sleep(0.02)
            assert run.process.returncode == 0, run.lines
        assert frames_of(film)
    with Live(str(clip), "--loop", "--to", "-", stdout=subprocess.PIPE) as run:  # which nobody reads
        run.logged("standard output: open")
        time.sleep(1)
        run.process.send_signal(signal.SIGINT)
        wait_for(lambda: ignored(run.process.pid, signal.SIGTERM))  # it has heard of the first
        assert run.end(signal.SIGINT) == 130, "4 is what it comes to after ten seconds"


def ignored(pid: int, number: int) -> bool:
    """Whether a process ignores a signal."""
    words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(words["SigIgn"], 16) >> (number - 1) & 1)


def test_a_session_without_a_frame_has_an_exit_code(tmp_path: Path) -> None:
    with Live(f"rtsp://127.0.0.1:{free_port()}/x", "--to", str(tmp_path / "out.mkv")) as run:
        run.logged("Connection refused")
        assert run.end() == 3
        assert "error: no frame came: rtsp://127.0.0.1" in run.lines[-1] and "Connection refused" in run.lines[-1]


def test_systemd_hears_of_every_end(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0.1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for arguments, signalled in (((), False), (("--loop", "--duration", "1s"), False), (("--loop",), True)):
            told: list[bytes] = []

            def lives(told: list[bytes] = told) -> bool:
                """Hear what there is, before the socket is full."""
                with contextlib.suppress(TimeoutError):
                    told.append(systemd.recv(1000))
                return any(message.startswith(b"WATCHDOG=1\nSTATUS=live: ") for message in told)

            with Live(str(clip), *arguments, "--to", str(tmp_path / "out.mkv"), "--overwrite") as run:
                if signalled:
                    wait_for(lives)
                    run.process.send_signal(signal.SIGTERM)
                wait_for(lambda: (lives(), run.process.poll())[1] is not None, 120)
                assert run.wait() == 0
            with contextlib.suppress(TimeoutError):
                while True:
                    told.append(systemd.recv(1000))
            assert told[0] == b"READY=1" and told[-1] == b"STOPPING=1" and told.count(told[-1]) == 1


def test_a_sink_that_nobody_reads_is_an_exit_code(clip: Path, tmp_path: Path) -> None:
    """It hangs in its write: a pipe that is full, and the film beside it is finished."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    film = tmp_path / "out.mkv"
    descriptor = os.open(pipe, os.O_RDWR)  # a reader that never reads
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)  # less than a frame
    try:
        with Live(str(clip), "--loop", "--to", "-", "--to", str(film), stdout=descriptor) as run:
            run.logged("out.mkv: open")
            wait_for(lambda: select.select([descriptor], [], [], 0)[0])
            assert run.end() == 4, run.lines
            assert any("standard output: stalled, left unfinished" in message for message in run.messages)
    finally:
        os.close(descriptor)
    assert frames_of(film)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("clip",), 2, "goes nowhere"),
        (("missing.mp4", "--to", "x.mkv"), 3, "no file"),
        (("ftp://h/x", "--to", "x.mkv"), 2, "no address of a stream"),
        (("rtsp://a:p#w@cam/1", "--to", "x.mkv"), 2, "is no URL"),
        (("clip", "--to", "rtsp://a:p#w@cam/1"), 2, "is no URL"),
        (("clip", "--to", "x.mkv", "--preset", "huge"), 2, "unknown preset"),
        (("clip", "--to", "x.xyz"), 2, ".xyz"),
        (("clip", "--to", "x.mkv", "--segment", "soon"), 2, "length of time"),
        (("clip", "--preview", "localhost:99999"), 2, "no address to listen on"),
        (("-", "--to", "x.mkv", "--size", "16x16"), 2, "pixel format"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    arguments: tuple[str, ...], code: int, words: str, clip: Path, tmp_path: Path
) -> None:
    command = [str(clip) if a == "clip" else a for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "crispstream.cli", "live", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "x.mkv").exists()


def test_a_public_page_asks_for_a_token_and_shows_it_once(clip: Path) -> None:
    port = free_port()
    with Live(str(clip), "--loop", "--preview", f"0.0.0.0:{port}") as run:
        run.logged("preview: ")  # and may be ended from now on
        asked = [line for line in run.lines if "asks for this token" in line]
        assert len(asked) == 1
        token = asked[0].split()[-1]
        assert len(token) >= 24 and not any(token in message for message in run.messages)
        assert run.end() == 0


@needs_server
def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    local = ("--to", str(tmp_path / "a.mkv"), "--preview", str(port), "--read-timeout", "2s")
    with RtspServer(user="user:secret") as server, Live(server.url, *local) as run:
        run.logged("a.mkv: open")
        took = []
        for round_ in range(3):
            server.kill()
            time.sleep(3)  # it has tried several times by now, and waits for as long as it ever does
            wait_for(lambda: run.status(port)["source"]["state"] == "reconnecting")
            before = run.status(port)["frames"]["out"]
            server.start((320, 180) if round_ != 1 else (256, 144))
            since = time.monotonic()
            wait_for(lambda seen=before: run.status(port)["frames"]["out"] > seen + 5)
            took.append(time.monotonic() - since)
        assert min(took) < 5, "frames flow again within 5 s, where the machine lets them"
        assert run.status(port)["source"]["reconnects"] >= 3
        assert run.end() == 0
        assert not any("secret" in line for line in run.lines)
    films = sorted(tmp_path.glob("*.mkv"))
    assert len(films) == 3, "another size is another film"
    assert all(frames_of(film) for film in films) and not list(tmp_path.glob(".*"))


@needs_server
def test_reconnecting_leaks_nothing(tmp_path: Path) -> None:
    port = free_port()
    with RtspServer() as server, Live(server.url, "--preview", str(port), "--read-timeout", "1s") as run:
        run.logged("preview: open")

        def again() -> Sample:
            """What it takes after one connection more."""
            server.kill()
            wait_for(lambda: run.status(port)["source"]["state"] == "reconnecting")
            out = run.status(port)["frames"]["out"]
            server.start()
            wait_for(lambda: run.status(port)["frames"]["out"] > out + 3)
            return run.sample()

        # Every connection has a thread, and the allocator a pool of memory for each of the first threads.
        samples = [again() for _ in range(15)][9:]
        for _ in range(3):  # one pool more may come late; what leaks goes on
            try:
                flat(samples, 4)
                break
            except AssertionError:
                samples = samples[3:] + [again() for _ in range(3)]
        flat(samples, 4)
        assert run.end() == 0


def test_lengths_of_time_and_addresses() -> None:
    assert [seconds(t) for t in ("10min", "90s", "250ms", "1h", "1.5", "2m")] == [600, 90, 0.25, 3600, 1.5, 120]
    for wrong in ("", "0", "-1", "ten", "10 days", "1e9", "inf"):
        with pytest.raises(UsageError):
            seconds(wrong)
    assert address("8080") == ("127.0.0.1", 8080) and address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert address("[::]:8080") == ("::", 8080) and address("cam.local:1") == ("cam.local", 1)
    for wrong in ("", "host", "host:port", ":80", "1:2:3", "70000"):
        with pytest.raises(UsageError):
            address(wrong)
