# SPDX-License-Identifier: Apache-2.0
"""What the words after `crispstream live` mean, and what is wrong with them before anything has begun."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from media.clips import write_clip
from process import Live
from stand_ins import picture, wait_for

from crispstream.errors import InputError, OutputError, UsageError
from crispstream.live.kinds import idle
from crispstream.live.outlet import Outlet
from crispstream.live.places import Place, SinkWishes, SourceWishes, outlets_of, source_of
from crispstream.live.protocol import Shot

LIVE = [sys.executable, "-m", "crispstream.cli", "live"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds, ten frames a second."""
    return write_clip(
        tmp_path / "in.mp4", frames=20, size=(96, 64), pts=[i * 1280 for i in range(20)], time_base=Fraction(1, 12800)
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def camera() -> Place:
    return source_of("0", SourceWishes())


def told(*arguments: str, code: int) -> str:
    """What a run that must end so says."""
    done = subprocess.run([*LIVE, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("targets", "wishes", "words"),
    [
        (("http://h/x",), {}, "cannot push"),
        (("ftp://h/x",), {}, "no address"),
        (("rtmp://h/a/b",), {"encoder": "hevc"}, "does not carry"),
        (("rtsp://h/a",), {"bitrate": 2}, "too low"),
        (("window",), {}, "no display"),
        (("now.jpg",), {"every": 0.0}, "not possible"),
        (("-",), {"pixel_format": "foo"}, "unknown pixel format"),
        (("-", "-"), {}, "twice"),
        (("a.mkv", "./a.mkv"), {}, "twice"),
        (("",), {}, "empty"),
        ((".",), {}, "folder"),
        (("a.mkv", "a"), {}, "without a suffix"),
    ],
)
def test_wrong_targets(
    targets: tuple[str, ...], wishes: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match=words):
        outlets_of(targets, SinkWishes(**wishes), camera())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("target", ["gone/a.mkv", "gone/now.jpg", f"{'a' * 300}.mkv"])
def test_targets_that_cannot_be_written(target: str) -> None:
    with pytest.raises(OutputError, match=r"does not exist|cannot be reached"):
        outlets_of([target], SinkWishes(), camera())
    assert outlets_of(["%Y-%m-%d/a.mkv"], SinkWishes(), camera()), "that folder will be made"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("", UsageError),
        ("foo://bar", UsageError),
        ("a" * 300, InputError),
        (".", InputError),
        ("words.txt", InputError),
    ],
)
def test_wrong_sources(source: str, error: type[Exception]) -> None:
    Path("words.txt").write_text("no film")
    with pytest.raises(error):
        source_of(source, SourceWishes())


def test_the_source_is_no_target(clip: Path) -> None:
    source = source_of(str(clip), SourceWishes())
    Path("link.mkv").symlink_to(clip)
    for target in (str(clip), "in.mp4", "link.mkv"):
        with pytest.raises(UsageError, match="is the source"):
            outlets_of([target], SinkWishes(overwrite=True), source)


def test_a_source_that_looks_like_a_segment_is_not_replaced(tmp_path: Path) -> None:
    own = write_clip(tmp_path / "a-0001.mkv", frames=10, size=(64, 48))
    before = own.read_bytes()
    outlet = put(["a.mkv"], SinkWishes(overwrite=True, segment=60.0), source_of(str(own), SourceWishes()))
    assert outlet.state == "closed" and own.read_bytes() == before
    assert Path("a-0002.mkv").exists()


def put(targets: list[str], wishes: SinkWishes, source: Place) -> Outlet:
    """One shot through an outlet, until it has closed."""
    (outlet,) = outlets_of(targets, wishes, source)
    outlet.start()
    frame = picture(1, (64, 48))
    outlet.offer(Shot(frame, frame, time.monotonic(), 0))
    outlet.finish()
    assert outlet.join(60)
    return outlet


def test_a_picture_that_exists_is_not_replaced_unless_asked() -> None:
    photo = Path("photo.jpg")
    photo.write_bytes(b"dear")
    with pytest.raises(OutputError, match=r"photo.jpg exists"):
        outlets_of(["photo.jpg"], SinkWishes(), camera())
    assert photo.read_bytes() == b"dear"
    assert put(["photo.jpg"], SinkWishes(overwrite=True), camera()).state == "closed"
    assert photo.read_bytes().startswith(b"\xff\xd8")


def test_a_file_has_a_rate_and_a_camera_none_yet(clip: Path) -> None:
    assert source_of(str(clip), SourceWishes()).rate == pytest.approx(10, abs=0.5)  # the last frame of it is short
    Path("a.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F30000:1001 C420\nFRAME\n" + bytes(384))
    assert source_of("a.y4m", SourceWishes()).rate == Fraction(30000, 1001)
    assert camera().rate is None


@pytest.mark.parametrize("piped", [False, True])
def test_a_pipe_says_the_rate_of_the_film(piped: bool) -> None:
    frames = b"YUV4MPEG2 W96 H64 F10:1 C420\n" + 5 * (b"FRAME\n" + bytes(96 * 64 * 3 // 2))
    Path("a.y4m").write_bytes(frames)
    done = subprocess.run(
        [*LIVE, "-" if piped else "a.y4m", "--to", "-"], input=frames, capture_output=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.startswith(b"YUV4MPEG2 W96 H64 F10:1 "), done.stderr


def test_a_pipe_without_a_frame_is_empty() -> None:
    """The summary is for people: it may not be taken for pixels."""
    command = [*LIVE, "-", "--to", "-", "--duration", "500ms"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.read() == b""
        assert b"0 frames in, 0 out" in run.stderr.read()
        assert run.wait(60) == 0


def test_a_terminal_takes_no_frames(clip: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run([*LIVE, str(clip), "--to", "-"], stdout=theirs, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2 and b"is a terminal" in done.stderr and b"INFO" not in done.stderr


def test_a_sink_that_failed_for_good_costs_the_exit_code_and_not_the_summary(clip: Path) -> None:
    with open("/dev/full", "wb") as full, Live(str(clip), "--to", "-", "--to", "a.mkv", stdout=full.fileno()) as run:
        assert run.wait() == 4, run.lines
    said = "".join(run.lines)
    assert "standard output: 0 frames" in said and "No space left on device" in said
    assert "closed by a run before" not in said and Path("a.mkv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("0", "--preview", "foo"), "no address to listen on"),
        (("0", "--to", "a.mkv", "--duration", "soon"), "length of time"),
        (("0", "--to", "a.mkv", "--max-latency", "soon"), "length of time"),
        (("0", "--to", "a.mkv", "--rate", "0"), "rate"),
        (("env:", "--to", "a.mkv"), "name of an environment variable"),
    ],
)
def test_arguments_are_told_before_the_engine_opens(arguments: tuple[str, ...], words: str) -> None:
    """Of two wrong ones the argument is told, not the preset."""
    assert words in told(*arguments, "--preset", "huge", code=2)


@pytest.mark.parametrize(
    ("source", "targets", "given", "found"),
    [
        ("0", ["a.mkv"], ["--size", "--rate", "--camera-format", "--crf", "--preset"], []),
        ("0", ["a.png"], ["--transport", "--loop", "--segment", "--bitrate", "--overwrite"], [0, 1, 2, 3]),
        ("rtsp://h/1", ["-"], ["--transport", "--pixel-format", "--rate", "--size", "--open-timeout"], [3]),
        ("http://h/1", ["rtmp://h/a/b"], ["--transport", "--encoder", "--bitrate", "--crf"], [0, 3]),
        ("a ! b", ["window"], ["--read-timeout", "--camera-format", "--snapshot-every", "--speed"], [1, 2, 3]),
        ("-", ["a.mkv"], ["--pixel-format", "--read-timeout", "--open-timeout"], [0, 1]),
        ("-", ["a.png"], ["--pixel-format", "--size", "--rate"], []),
        ("-", ["a.png"], ["--rate"], [0]),
        ("in.mp4", ["a.mkv"], ["--loop", "--open-timeout", "--rate", "--snapshot-every"], [1, 3]),
        ("in.mp4", [], ["--overwrite", "--max-latency"], [0]),
    ],
)
def test_options_that_nothing_heeds(source: str, targets: list[str], given: list[str], found: list[int]) -> None:
    assert [line.split()[0] for line in idle(given, source, targets)] == [given[i] for i in found]


def test_every_option_but_those_of_the_engine_and_the_session_is_known_there() -> None:
    of_all = {"preset", "strength", "engine-backend", "device", "threads", "no-gating", "max-latency", "duration"}
    of_all |= {"to", "preview", "log-json", "quiet", "json", "debug", "help"}
    shown = subprocess.run([*LIVE, "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    options = set(re.findall(r"--[a-z-]+", re.sub(r"(?m)^ {10,}.*|-- ", "", shown)))
    unknown = options - {f"--{name}" for name in of_all}
    assert len(unknown) > 12 and len(list(idle(unknown, "missing", ["window"]))) == len(unknown) - 1


def test_what_nothing_heeds_is_told_once_each(clip: Path) -> None:
    arguments = ("--to", "a.mkv", "--size", "640x360", "--transport", "tcp", "--crf", "20")
    with Live(str(clip), *arguments) as run:
        assert run.wait() == 0
        idle_options = [message for message in run.messages if "does nothing here" in message]
    assert [message.split()[0] for message in idle_options] == ["--size", "--transport"]
    assert idle_options[0] == "--size does nothing here: it is for cameras and raw frames on standard input"


def test_hangup_ends_it_in_good_order_unless_it_is_ignored(clip: Path) -> None:
    with Live(str(clip), "--loop", "--to", "a.mkv") as run:
        run.logged("a.mkv: open")
        assert run.end(signal.SIGHUP) == 0
    assert Path("a.mkv").exists()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does: children inherit it
    try:
        with Live(str(clip), "--loop", "--to", "b.mkv") as run:
            run.logged("b.mkv: open")
            run.process.send_signal(signal.SIGHUP)
            time.sleep(1)
            assert run.process.poll() is None
            assert run.end() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(Path("b.mkv").exists)
