# SPDX-License-Identifier: Apache-2.0
"""What fuzzing found, each made again by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import seeds
from clips import Identity, read_clip, write_clip
from PIL import Image

from crispstream import Deblurrer, manifest, record, run, sources
from crispstream.compare import compare
from crispstream.cut import parse_time
from crispstream.errors import CrispStreamError, EngineError, InputError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.patterns import is_numbered
from crispstream.sinks.video import VideoSink


def with_bytes(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """The file with other bytes in it."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))
    return path


LONG = "*" + "x" * 300 + ".png"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a\0b", "o.png"),
        ("*\0", "o.png"),
        (LONG, "o.png"),
        ("%05000d.png", "o.png"),
        ("7.png", "a\0b"),
        ("*.png", LONG),
    ],
)
def test_names_that_no_system_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("7.png")
    with pytest.raises(CrispStreamError):
        run(source, target, deblurrer=Identity())
    assert [p.name for p in tmp_path.iterdir()] == ["7.png"]


def test_a_number_of_thousands_of_digits_is_not_made() -> None:
    assert is_numbered(Path("%0255d.png")) and not is_numbered(Path("%099999999999d.png"))
    assert not is_numbered(Path("%\u0663d.png"))  # a digit for some, not for formats


@pytest.mark.parametrize("text", ["9" * 5000, "1:" + "0" * 5000, "0." + "1" * 5000, "\u0661"])
def test_times_of_thousands_of_digits(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)
    assert parse_time(str(0.1 + 0.2)) == Fraction("0.30000000000000004")


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4", "out.y4m"])
def test_a_stream_of_a_codec_without_a_name(tmp_path: Path, target: str) -> None:
    path = with_bytes(write_clip(tmp_path / "in.mp4", frames=2, audio="aac"), b"mp4a", b"zzzz")
    with_bytes(path, b"esds", b"zzzz")
    report = run(path, tmp_path / target, deblurrer=Identity())
    assert (report.frames, len(report.skipped)) == (2, 1) and "unknown codec" in report.skipped[0]


@pytest.mark.parametrize("frames", [1, 3])
def test_a_few_tiny_frames_make_a_transport_stream_that_is_recognised(tmp_path: Path, frames: int) -> None:
    run(write_clip(tmp_path / "in.mp4", frames=frames, size=(16, 16)), tmp_path / "out.ts", deblurrer=Identity())
    assert len(read_clip(tmp_path / "out.ts").pts) == frames


def test_a_clock_that_vp9_does_not_know(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", pts=[0, 2**31 // 25], time_base=Fraction(1, 2**31 - 1))
    with pytest.raises(OutputError, match="no clock of 1/2147483647 s") as caught:
        run(path, tmp_path / "out.webm", deblurrer=Identity())
    assert ".mkv" in caught.value.hint and not (tmp_path / "out.webm").exists()
    run(path, tmp_path / "out.mkv", deblurrer=Identity())
    assert len(read_clip(tmp_path / "out.mkv").pts) == 2


def test_two_runs_of_one_process_to_standard_output(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=2)
    code = (
        "import sys; sys.path.append(sys.argv[1]); import crispstream as c; from clips import Identity\n"
        "c.run(sys.argv[2], '-', deblurrer=Identity())\n"
        "try: c.run(sys.argv[2], '-', deblurrer=Identity())\n"
        "except c.errors.OutputError as error: sys.exit(f'{error}')"
    )
    media = str(Path(seeds.__file__).parents[1] / "media")
    done = subprocess.run([sys.executable, "-c", code, media, path], capture_output=True)
    assert b"closed by a run before this one" in done.stderr and done.stdout.count(b"FRAME\n") == 2


def test_what_pillow_says_of_itself_is_not_shown(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "in.tif")
    samples = (277).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    with_bytes(tmp_path / "in.tif", samples + b"\3\0", samples + b"\xff\xff")
    command = [sys.executable, "-m", "crispstream.cli", "run", tmp_path / "in.tif", tmp_path / "out.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (3, 1, ""), done.stderr


def test_json_as_deep_as_the_sea(tmp_path: Path) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    (tmp_path / manifest.FILE_NAME).write_text(deep)
    with pytest.raises(EngineError, match="is damaged"):
        manifest.load(tmp_path)
    (tmp_path / record.FILE_NAME).write_text(deep)
    assert not record.JobRecord(tmp_path).is_ours(tmp_path / "a.png")


@pytest.fixture
def engine(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """(part, bytes) -> a folder with the shipped engine whose graph of that part is those bytes."""

    def make(part: str, graph: bytes) -> Path:
        shipped = manifest.load("nano")
        folder = tmp_path / "engine"
        folder.mkdir()
        for path in (shipped.weights_path, *map(shipped.path, shipped.graphs)):
            shutil.copy(path, folder)
        fields = json.loads((shipped.folder / manifest.FILE_NAME).read_text())
        (folder / fields["graphs"][part]["file"]).write_bytes(graph)
        fields["graphs"][part]["sha256"] = manifest.sha256(graph)
        (folder / manifest.FILE_NAME).write_text(json.dumps(fields))
        return folder

    return make


def test_a_damaged_graph_prints_nothing(
    engine: Callable[[str, bytes], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    graph = manifest.load("nano").path("encoder").read_bytes()
    with pytest.raises(EngineError, match="cannot load"):
        Deblurrer(engine("encoder", graph.replace(b"Conv", b"C\x8cnv")), "cpu", backend="onnxruntime")
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_fails_at_the_end_of_a_file_that_fails(tmp_path: Path) -> None:
    """The second frame is noise, and the third one's size too large: the error of the one waits behind the other's."""
    path = write_clip(tmp_path / "in.ivf", codec="libvpx-vp9", pts=[0, 1, 2], time_base=Fraction(1, 25))
    data = path.read_bytes()
    first = 32 + 12 + int.from_bytes(data[32:36], "little")
    broken = data[first + 12 : first + 20] + b"\xff" * 60
    frame = len(broken).to_bytes(4, "little") + data[first + 4 : first + 12] + broken
    path.write_bytes(data[:first] + frame + (2**32 - 2**23).to_bytes(4, "little") + bytes(20))
    report = run(path, tmp_path / "out.mkv", deblurrer=Identity())
    assert report.frames == 1 == len(read_clip(tmp_path / "out.mkv").pts)
    assert any("stopped early" in warning for warning in report.warnings)


@pytest.mark.parametrize("size", [(32768, 32768), (20000, 20000)])
def test_raw_frames_that_are_larger_than_ffmpeg_takes(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "in.y4m").write_bytes("YUV4MPEG2 W{} H{} F25:1\nFRAME\n".format(*size).encode() + bytes(1000))
    for settings in ({}, {"size": size, "pixel_format": "bgr24"}):
        with pytest.raises(InputError, match="too large"):
            run(tmp_path / "in.y4m", tmp_path / "out.mp4", deblurrer=Identity(), **settings)


def test_memory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG chunk that claims 2 GiB, and a frame that is too much, each where no such memory is."""

    def fail(*_: object) -> None:
        raise MemoryError

    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    write_clip(tmp_path / "in.mp4", frames=2)
    monkeypatch.setattr(sources.pictures, "_frame", fail)
    with pytest.raises(InputError, match="MemoryError"):
        run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity())
    monkeypatch.setattr(sources.video.VideoSource, "_read_tags", fail)
    with pytest.raises(InputError, match="does not fit into the memory"):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_pictures_before_the_clock_of_a_broadcast_begins_anew(tmp_path: Path, suffix: str) -> None:
    """33 bits of 1/90000 s are over after 0.4 s: FFmpeg counts what lies before from below zero."""
    late = {"muxdelay": "0", "muxpreload": "0", "output_ts_offset": "95443.3"}
    path = write_clip(tmp_path / "in.ts", frames=25, audio="aac", container=late)
    assert read_clip(path).times[0] < 0
    report = run(path, tmp_path / f"out{suffix}", deblurrer=Identity())
    result = read_clip(tmp_path / f"out{suffix}")
    assert report.frames == len(result.times) == 25 and result.times[0] >= 0
    assert any(re.fullmatch(r"all streams start 0\.\d+ s later: .*", warning) for warning in report.warnings)
    assert len(result.packets[1]) == 48


@pytest.mark.parametrize("pts", [2**63 - 1, -(2**63) + 1, 2**62 + 1])
def test_times_at_the_end_of_64_bits(tmp_path: Path, pts: int) -> None:
    sink = VideoSink(tmp_path / "out.mkv")
    frame = Frame.from_array(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(OutputError, match="is due at") as caught:
        sink.write(replace(frame, pts=pts, time_base=Fraction(1, 25)))
    assert ".y4m" in caught.value.hint
    sink.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("encoder", ["h264", "mpeg4"])
def test_a_rate_that_is_faster_than_the_clock(tmp_path: Path, suffix: str, encoder: str) -> None:
    sink = VideoSink(tmp_path / f"out{suffix}", rate=Fraction(30), encoder=encoder)
    frame = Frame.from_array(np.zeros((16, 16, 3), np.uint8))
    for pts in range(4):
        sink.write(replace(frame, pts=pts, time_base=Fraction(1, 2)))
    sink.close()
    assert len(read_clip(tmp_path / f"out{suffix}").pts) == 4


def test_times_that_no_muxer_takes(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mkv", encoder="mpeg4")
    frame = Frame.from_array(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(OutputError, match="cannot write") as caught:
        for pts in (1, 10**12, 10**12 + 1, 10**12 + 2):
            sink.write(replace(frame, pts=pts, time_base=Fraction(1, 25)))
        sink.close()
    sink.abort()
    assert "are the times of the input damaged?" in caught.value.hint and not list(tmp_path.iterdir())


def test_films_without_a_frame_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "in.y4m"
    path.write_bytes(b"YUV4MPEG2 W16 H16 F25:1\n")
    with pytest.raises(InputError, match="no frame"):
        compare(path, path, tmp_path / "out.mkv", reference=path)
    assert not (tmp_path / "out.mkv").exists()


def test_an_exif_block_that_a_format_does_not_take(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 0  # libtiff knows orientations from 1 on
    Image.new("RGB", (8, 8)).save(tmp_path / "in.jpg", exif=exif)
    report = run(tmp_path / "in.jpg", tmp_path / "out.tif", deblurrer=Identity())
    assert report.warnings == ["the Exif block of a picture does not go into TIFF: left out"]
    assert Image.open(tmp_path / "out.tif").size == (8, 8)


def test_features_of_other_dimensions(engine: Callable[[str, bytes], Path]) -> None:
    folder = engine("encoder", b"")
    fields = json.loads((folder / manifest.FILE_NAME).read_text())
    fields["tensors"]["features1"]["shape"] = [1, 48]
    (folder / manifest.FILE_NAME).write_text(json.dumps(fields))
    with pytest.raises(EngineError, match="'features1' has 2 dimensions"):
        manifest.load(folder)


@pytest.mark.parametrize("value", ["x" * 5000, "two\nlines", "\ud800"])
def test_notes_whose_texts_no_message_can_say(engine: Callable[[str, bytes], Path], value: str) -> None:
    folder = engine("encoder", b"")
    fields = json.loads((folder / manifest.FILE_NAME).read_text())
    fields["tensors"]["head"]["dtype"] = value
    (folder / manifest.FILE_NAME).write_text(json.dumps(fields))
    with pytest.raises(EngineError, match="'dtype' is no short plain text"):
        manifest.load(folder)
