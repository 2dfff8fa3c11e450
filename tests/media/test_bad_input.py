# SPDX-License-Identifier: Apache-2.0
"""Wrong paths, damaged files, full disks, Ctrl-C: one clear error, and never half an output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.packet import Packet
from clips import NEVER_ZERO, Identity, add_late_stream, audio_packets, pattern, read_clip, write_clip
from PIL import Image

from crispstream import ends, run
from crispstream.errors import CrispStreamError, InputError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.jobs import FolderJob
from crispstream.sinks.partial import PartialFile
from crispstream.sinks.raw import RawSink
from crispstream.sinks.video import VideoSink
from crispstream.sources.video import VideoSource


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before  # one of an earlier test may have ended meanwhile
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


def refused(kind: type[CrispStreamError], src: Path, dst: Path, **options: object) -> CrispStreamError:
    with pytest.raises(kind) as caught:
        run(src, dst, deblurrer=Identity(), **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_input(tmp_path: Path) -> None:
    assert "does not exist" in str(refused(InputError, tmp_path / "none.mp4", tmp_path / "out.mp4"))


@pytest.mark.parametrize("name", ["in.mp4", "in.png"])
def test_empty_input(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "is empty" in str(refused(InputError, tmp_path / name, tmp_path / f"out{name[2:]}"))


@pytest.mark.parametrize(("name", "message"), [("in.mp4", "not a video"), ("in.png", "not a picture")])
def test_text_is_neither_video_nor_picture(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("Dear diary,\n" * 50)
    assert message in str(refused(InputError, tmp_path / name, tmp_path / f"out{name[2:]}"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_mp4_without_its_index(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=50, content=pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = refused(InputError, path, tmp_path / "out.mp4")
    assert "not a video" in str(error) and "cut off" in error.hint


def test_a_folder_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory") as caught:
        VideoSource(tmp_path)
    assert caught.value.hint == "name a file in it"


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mp4"), "w") as output:
        output.mux(audio_packets(output, "aac", seconds=0.2))
    assert "no video stream" in str(refused(InputError, tmp_path / "in.mp4", tmp_path / "out.mp4"))


@pytest.mark.parametrize(
    ("suffix", "container"),
    [
        (".mkv", {}),
        (".ts", {}),
        (".mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        (".mp4", {"movflags": "frag_keyframe+empty_moov"}),
        (".mov", {"movflags": "faststart"}),
    ],
)
@pytest.mark.parametrize("audio", [None, "aac"])
def test_a_cut_file_gives_what_it_holds_and_a_warning(
    tmp_path: Path, suffix: str, container: dict[str, str], audio: str | None
) -> None:
    path = write_clip(
        tmp_path / f"in{suffix}",
        frames=100,
        size=(160, 96),
        content=pattern,
        container=container,
        options={"g": "10", "bf": "0"},
        audio=audio,
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.6) + 100])
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert 40 <= report.frames <= 65
    assert any("truncated" in w for w in report.warnings), report.warnings
    assert len(read_clip(tmp_path / "out.mp4").pts) == report.frames


def test_a_fragmented_file_cut_in_its_sound_is_told(tmp_path: Path) -> None:
    path = fragmented(tmp_path / "in.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moof") - 4 - 10])  # ten bytes off the fragment before the last
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert report.warnings == ["the file ends inside an MP4 box: truncated"]


@pytest.mark.parametrize("tail", [b"", bytes(5), bytes(100), b"\xff\xd8\xff\xe0" * 9])
def test_what_is_appended_to_a_whole_file_is_no_cut(tmp_path: Path, tail: bytes) -> None:
    path = fragmented(tmp_path / "in.mp4")
    path.write_bytes(path.read_bytes() + tail)
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert (report.frames, report.warnings) == (50, [])


def fragmented(path: Path) -> Path:
    """Every fragment of this clip has its video first and its sound at its end."""
    container = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    return write_clip(path, frames=50, audio="aac", container=container, options={"g": "10", "bf": "0"})


def test_a_frame_wider_than_the_kernels_take_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=1, size=(32770, 16), codec="ffv1")
    assert "32770x16: a side may have 32768" in str(refused(InputError, path, tmp_path / "out.mkv", encoder="ffv1"))


def test_options_beside_a_deblurrer_are_refused(tmp_path: Path) -> None:
    error = refused(UsageError, write_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", strength=0.5, presett="nano")
    assert "strength, presett" in str(error)


@pytest.mark.parametrize("made_before", [False, True])
def test_no_empty_folder_is_left(tmp_path: Path, made_before: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no picture")
    if made_before:
        (tmp_path / "out").mkdir()
    refused(InputError, tmp_path / "in", tmp_path / "out")
    refused(UsageError, tmp_path / "in", tmp_path / "out", quality=0)
    assert (tmp_path / "out").is_dir() == made_before


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.ts", frames=100, content=pattern, options={"g": "10"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 188 * 40] = bytes(188 * 40)
    path.write_bytes(data)
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert 50 < report.frames <= 100
    assert report.warnings


def test_joined_recordings_keep_every_frame_and_tell_what_is_lost(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", frames=50, audio="aac").read_bytes()
    (tmp_path / "in.ts").write_bytes(one + one)  # time starts again in the middle
    report = run(tmp_path / "in.ts", tmp_path / "out.mp4", deblurrer=Identity())
    assert report.frames == len(read_clip(tmp_path / "out.mp4").pts) == 100
    assert "timestamps that do not increase were moved by one tick" in report.warnings
    assert report.skipped == ["stream 1: 95 packets out of order or damaged"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damage_that_ends_the_reading_ends_the_copying(tmp_path: Path, suffix: str) -> None:
    path = fragmented(tmp_path / "in.mp4")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"trun")  # the sound's; ISO/IEC 14496-12, 8.8.8
    flags = int.from_bytes(data[at + 5 : at + 8], "big")
    size = at + 12 + sum(4 for bit in (0x1, 0x4, 0x100) if flags & bit)
    data[size : size + 4] = b"\xe0\xf1\xb5\xe0"  # more than FFmpeg takes memory for
    path.write_bytes(data)
    report = run(path, tmp_path / f"out{suffix}", deblurrer=Identity())
    assert report.frames == 50 == len(read_clip(tmp_path / f"out{suffix}").pts)
    assert report.warnings[0] == "reading stopped early: Cannot allocate memory"
    assert report.skipped == ["other streams: reading stopped early (Cannot allocate memory)"]
    assert len(read_clip(tmp_path / f"out{suffix}").packets[1]) > 80


def test_a_stream_that_turns_up_late(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.flv", frames=50, audio="aac")
    source = read_clip(path)
    add_late_stream(path)
    code = f"""
        from clips import Identity
        from crispstream import run
        report = run({str(path)!r}, {str(tmp_path / "out.mkv")!r}, deblurrer=Identity())
        print(report.frames, report.warnings, report.skipped)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **NEVER_ZERO, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "50 [] ['a stream that turns up in the middle of the file']\n", done.stderr
    result = read_clip(tmp_path / "out.mkv")
    assert len(result.pts) == 50
    assert [data for *_, data in result.packets[1]] == [data for *_, data in source.packets[1]]


def test_output_exists(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    (tmp_path / "out.mp4").write_text("precious")
    error = refused(OutputError, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert "exists" in str(error) and "--overwrite" in error.hint
    assert (tmp_path / "out.mp4").read_text() == "precious"
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity(), overwrite=True)
    assert len(read_clip(tmp_path / "out.mp4").pts) == 12


def test_a_failed_overwrite_leaves_the_old_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    (tmp_path / "out.mp4").write_text("precious")

    def fail(index: int) -> None:
        if index == 6:
            raise RuntimeError("broken engine")

    with pytest.raises(RuntimeError, match="broken engine"):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity(fail), overwrite=True)
    assert (tmp_path / "out.mp4").read_text() == "precious"


@pytest.mark.parametrize("link", [False, True])
def test_output_is_the_input(tmp_path: Path, link: bool) -> None:
    path = write_clip(tmp_path / "in.mp4")
    target = path
    if link:
        target = tmp_path / "same.mp4"
        os.link(path, target)
    before = path.read_bytes()
    refused(UsageError, path, target, overwrite=True)
    assert path.read_bytes() == before


def test_output_folder_is_missing(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    error = refused(OutputError, tmp_path / "in.mp4", tmp_path / "no" / "out.mp4")
    assert "does not exist" in str(error) and "mkdir" in error.hint


def test_output_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4")

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("crispstream.sinks.partial.FileIO", refuse)  # for the superuser nothing is read-only
    assert "cannot write in" in str(refused(OutputError, tmp_path / "in.mp4", tmp_path / "out.mp4"))


def test_output_is_not_a_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    os.mkfifo(tmp_path / "out.mp4")
    assert "regular file" in str(refused(OutputError, tmp_path / "in.mp4", tmp_path / "out.mp4", overwrite=True))


def test_an_output_folder_takes_the_name_of_the_input(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    (tmp_path / "results").mkdir()
    report = run(tmp_path / "in.mp4", tmp_path / "results", deblurrer=Identity())
    assert report.output == str(tmp_path / "results" / "in.mp4")
    assert (tmp_path / "results" / "in.mp4").is_file()


def test_unknown_output_suffix(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    assert ".mkv" in refused(UsageError, tmp_path / "in.mp4", tmp_path / "out.xyz").hint
    refused(UsageError, tmp_path / "in.mp4", tmp_path / "out.png")


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4", frames=100)
    write = VideoSink.write

    def full(self: VideoSink, frame: Frame) -> None:
        write(self, frame)
        if frame.pts == 512 * 50:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoSink, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_muxer_that_cannot_write_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4", frames=200, size=(160, 96), content=pattern)
    sink_file = PartialFile.__init__

    def on_a_full_disk(self: PartialFile, path: Path, overwrite: bool = False) -> None:
        sink_file(self, path, overwrite)
        self.temporary.unlink()
        self.temporary.symlink_to("/dev/full")

    monkeypatch.setattr(PartialFile, "__init__", on_a_full_disk)
    assert "No space left" in str(refused(OutputError, tmp_path / "in.mp4", tmp_path / "out.mp4"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


SCRIPT = """
    import json, sys, time
    from clips import Identity
    from crispstream import run
    from crispstream.sinks.video import VideoSink

    hurried = []
    VideoSink.hurry = lambda self: hurried.append(True)  # which the signal's handler calls

    def slow(index):
        if index == 30:
            print(index, flush=True)
            late = time.monotonic() + 120
            while not hurried and time.monotonic() < late:
                time.sleep(0.01)

    try:
        print(json.dumps(run(sys.argv[1], sys.argv[2], deblurrer=Identity(slow)).to_dict()))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_ctrl_c_leaves_a_file_that_plays(tmp_path: Path, suffix: str, number: signal.Signals) -> None:
    path = write_clip(tmp_path / f"in{suffix}", frames=100, audio="aac")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(path), str(tmp_path / f"out{suffix}")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "30\n"
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert '"interrupted": true' in rest
    result, source = read_clip(tmp_path / f"out{suffix}"), read_clip(path)
    assert 30 < len(result.pts) < 50
    assert result.pts == source.pts[: len(result.pts)]
    sound = result.packets[1]
    assert 0 < len(sound) < 0.6 * len(source.packets[1])
    assert sound == source.packets[1][: len(sound)]


def flv_with_headers(path: Path, settings: bytes) -> Path:
    """An FLV whose 20th piece of sound comes with ``settings``."""
    whole = write_clip(path, frames=50, audio="aac").read_bytes()
    result, sounds, at = whole[:13], 0, 13
    while at < len(whole):
        end = at + 11 + int.from_bytes(whole[at + 1 : at + 4], "big") + 4
        sounds += whole[at] == 8
        if whole[at] == 8 and sounds == 20:
            body = b"\xaf\x00" + settings
            tag = b"\x08" + len(body).to_bytes(3, "big") + whole[at + 4 : at + 11] + body
            result += tag + len(tag).to_bytes(4, "big")
        result += whole[at:end]
        at = end
    path.write_bytes(result)
    return path


@pytest.mark.parametrize("settings", [b"\xff\xff\xff\xff", b"\x16\xe8"])
def test_other_settings_in_the_middle_of_a_copied_stream(tmp_path: Path, settings: bytes) -> None:
    """Matroska's muxer refuses some, as if a picture were at fault, and puts others over the header."""
    source = flv_with_headers(tmp_path / "in.flv", settings)
    report = run(source, tmp_path / "out.mkv", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mkv")
    assert report.frames == 50 == len(result.times)
    assert report.skipped == ["stream 1: other settings in the middle of it"]
    assert [data for *_, data in result.packets[1]] == [data for *_, data in read_clip(source).packets[1]]
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert after.streams.audio[0].codec_context.extradata == before.streams.audio[0].codec_context.extradata


def test_a_copied_packet_that_is_refused_late(tmp_path: Path) -> None:
    """What a muxer notices when the packet's turn comes, while a picture is handed over, costs that packet."""
    with av.open(str(tmp_path / "in.mkv"), "w") as output:
        film = output.add_stream("libx264", rate=25)
        sounds = audio_packets(output, "libopus", 2)
        sounds[20] = short = Packet(b"\xf8")
        short.stream, short.time_base = sounds[19].stream, sounds[19].time_base
        short.pts = short.dts = sounds[21].pts - sounds[21].duration
        for _ in range(50):
            output.mux(film.encode(av.VideoFrame(640, 480, "yuv420p")))
        output.mux(film.encode(None))
        output.mux(sounds)
    report = run(tmp_path / "in.mkv", tmp_path / "out.ts", deblurrer=Identity())
    assert report.frames == 50 == len(read_clip(tmp_path / "out.ts").times)
    assert report.skipped == ["stream 1: 1 packet out of order or damaged"]


def test_a_pipe_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where there is one of its name."""
    monkeypatch.chdir(tmp_path)
    clip = write_clip(Path("in.mp4"))
    Path("in").mkdir()
    Image.new("RGB", (16, 16)).save("in/a.png")
    Image.new("RGB", (16, 16)).save("a.png")
    for is_there in (False, True):
        if is_there:
            Path("-").mkdir()
        refused(UsageError, Path("in"), Path("-"))
        refused(UsageError, Path("a.png"), Path("-"))
        with pytest.raises(UsageError, match="is a pipe"):
            FolderJob(Path("in"), Path("-"), {}, {})
        assert Path("-").exists() == is_there
    sent: list[Path | None] = []
    monkeypatch.setattr(
        ends, "RawSink", lambda path, **_: sent.append(path) or RawSink(Path("out.y4m"), rate=Fraction(25))
    )
    run(clip, "-", deblurrer=Identity())
    assert sent == [None] and not list(Path("-").iterdir())


def test_what_is_neither_file_nor_folder_says_how_to_read_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "run - out.mp4" in refused(InputError, tmp_path / "pipe", tmp_path / "out.mp4").hint


def test_a_pixel_format_that_says_nothing_is_refused(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    for name in ("nonsense", "nv12"):
        refused(UsageError, source, tmp_path / "out.mp4", pixel_format=name)


def test_a_folder_takes_nothing_that_is_for_films(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "a.png")
    write_clip(tmp_path / "in" / "film.mp4")
    wrong = {"encoder": "nonsense", "crf": -5, "size": (16, 16), "rate": Fraction(5), "odd": "444", "end": 1}
    for name, value in wrong.items():
        refused(UsageError, tmp_path / "in", tmp_path / "out", **{name: value})
    report = run(tmp_path / "in", tmp_path / "out", deblurrer=Identity())
    assert report.skipped == ["film.mp4: a video, give it by itself"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
