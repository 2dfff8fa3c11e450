# SPDX-License-Identifier: Apache-2.0
"""A live stream into files: where they begin, what they are called, what survives when something fails."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from shots import descriptors, resident, shot

from crispstream.errors import OutputError, UsageError
from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat
from crispstream.live.protocol import Shot
from crispstream.sinks import segments
from crispstream.sinks.names import Names
from crispstream.sinks.segments import SegmentSink, remaining


def times(path: Path) -> list[float]:
    with av.open(str(path)) as film:
        return [float(frame.time) for frame in film.decode(video=0)]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def fill(sink: SegmentSink, seconds: float, start: float, rate: int = 5) -> None:
    for i in range(round(seconds * rate)):
        sink.write(shot(i, start + i / rate))


def steady(monkeypatch: pytest.MonkeyPatch, wall: float) -> float:
    """A capture time of 1000.0 means ``wall``, and it is UTC everywhere."""

    class Clock:
        localtime, strftime = staticmethod(time.gmtime), staticmethod(time.strftime)
        time, monotonic = staticmethod(lambda: wall), staticmethod(lambda: 1000.0)

    monkeypatch.setattr(segments, "time", Clock)
    monkeypatch.setattr("crispstream.sinks.names.time", Clock)
    return 1000.0


def test_one_file_without_segments(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path / "out.mkv")
    start = time.monotonic()
    for i, offset in enumerate((0, 0.04, 0.04, 0.039, 2.5)):
        sink.write(shot(i, start + offset))
    assert all(name.endswith(".part") for name in names(tmp_path))
    sink.close()
    assert names(tmp_path) == ["out.mkv"]
    assert times(tmp_path / "out.mkv") == pytest.approx([0, 0.04, 0.041, 0.042, 2.5], abs=1e-6)


def test_the_sources_own_times_do_not_matter(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path / "out.mkv")
    for i, pts in enumerate((900_000, 7, None)):
        first = shot(i, 50 + i)
        frame = Frame(first.after.planes, PixelFormat.BGR24, pts=pts, time_base=Fraction(1, 90_000), duration=9)
        sink.write(Shot(frame, frame, first.captured, i))
    sink.close()
    assert times(tmp_path / "out.mkv") == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".webm", ".ts"])
def test_a_new_file_for_every_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    start = steady(monkeypatch, 86_400 + 7)
    sink = SegmentSink(tmp_path / f"out{suffix}", segment_seconds=4)
    fill(sink, 10, start)
    sink.close()
    # From 7 to 8 is too short for a file: the first ends at 12, the second at 16, the last where the stream does.
    paths = [tmp_path / f"out-{number:04d}{suffix}" for number in (1, 2, 3)]
    assert names(tmp_path) == [path.name for path in paths]
    for path, seconds in zip(paths, (5, 4, 1), strict=True):
        found = times(path)
        assert [t - found[0] for t in found] == pytest.approx([i / 5 for i in range(5 * seconds)], abs=0.0011)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".webm"])
@pytest.mark.parametrize("own", [None, Fraction(3, 10)])
def test_the_last_frame_lasts(tmp_path: Path, suffix: str, own: Fraction | None) -> None:
    """For as long as it says, else as the rate says. MPEG-TS says nothing of that."""
    sink = SegmentSink(tmp_path / f"out{suffix}", rate=Fraction(5))
    for i in range(10):
        moving = shot(i, 50 + i / 5)
        frame = replace(moving.after, time_base=own, duration=own and 1)
        sink.write(replace(moving, after=frame))
    sink.close()
    with av.open(str(tmp_path / f"out{suffix}")) as film:
        assert film.duration is not None
        assert film.duration / av.time_base == pytest.approx(1.8 + float(own or 0.2), abs=0.0011)


def test_files_end_where_the_clock_says() -> None:
    noon = 1_700_049_600  # 12:00:00 UTC
    day = time.localtime(noon).tm_gmtoff
    assert remaining(600, noon - day) == 600
    assert remaining(600, noon - day + 590) == 610
    assert remaining(600, noon - day + 200) == 400
    assert remaining(600, noon - day + 599.99) == pytest.approx(600.01)
    assert remaining(86_400, noon - day) == 43_200
    midnight = noon - day - 43_200
    assert remaining(420, midnight) == 420, "seven minutes begin anew every day"
    assert remaining(420, midnight + 86_400 - 300) == 300
    assert remaining(420, midnight + 86_400 - 100) == 520
    assert remaining(172_800, midnight) in (86_400, 172_800)


def test_names_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = steady(monkeypatch, 1_700_049_600 - 1)
    sink = SegmentSink(tmp_path / "%Y-%m-%d" / "cam-%Y%m%d-%H%M%S.mkv", segment_seconds=2)
    fill(sink, 3, start)
    sink.close()
    assert names(tmp_path) == ["2023-11-15"]
    assert names(tmp_path / "2023-11-15") == ["cam-20231115-115959.mkv", "cam-20231115-120000.mkv"]


def test_a_pattern_that_gives_one_name_twice(tmp_path: Path) -> None:
    for _ in range(3):
        sink = SegmentSink(tmp_path / "cam-%Y.mkv", overwrite=True)
        sink.write(shot(0))
        sink.close()
    assert len(names(tmp_path)) == 3
    assert re.fullmatch(r"cam-\d{4}-0001.mkv", names(tmp_path)[0])


def test_numbers_count_on_and_nothing_is_replaced(tmp_path: Path) -> None:
    old = tmp_path / "out-0007.mkv"
    old.write_bytes(b"old")
    for _ in range(2):
        sink = SegmentSink(tmp_path / "out.mkv", segment_seconds=60)
        sink.write(shot(0))
        sink.close()
    assert names(tmp_path) == ["out-0007.mkv", "out-0008.mkv", "out-0009.mkv"]
    assert old.read_bytes() == b"old"


def test_a_width_of_ones_own(tmp_path: Path) -> None:
    assert Names(tmp_path / "a-%02d.mkv").next(0) == tmp_path / "a-01.mkv"
    assert Names(tmp_path / "a-%Y-%m-%d.mkv").next(1e9) == tmp_path / "a-2001-09-09.mkv"
    with pytest.raises(UsageError, match="more than one"):
        Names(tmp_path / "%Y-%04d.mkv")


def test_an_existing_file_is_kept_or_replaced_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    path.write_bytes(b"old")
    sink = SegmentSink(path)
    sink.write(shot(0))
    sink.close()
    assert names(tmp_path) == ["out-0001.mkv", "out.mkv"]
    assert path.read_bytes() == b"old"
    (tmp_path / "out-0001.mkv").unlink()
    for _ in range(2):  # the second is what is made after an error: it must not replace what this run has recorded
        sink = SegmentSink(path, overwrite=True)
        sink.write(shot(0))
        sink.close()
    assert names(tmp_path) == ["out-0001.mkv", "out.mkv"]
    assert all(times(tmp_path / name) == [0] for name in names(tmp_path))


def test_another_layout_begins_another_file(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path / "out.mkv")
    planes = (shot(0).after.planes[0][:, :, 1].copy(), *(shot(0).after.planes[0][:24, :32, 0].copy() for _ in "uv"))
    yuv = [Frame(planes, PixelFormat.I420, ColorSpec(matrix=m)) for m in (Matrix.BT601, Matrix.BT709)]
    for i, frame in enumerate([shot(0).after, shot(0, size=(32, 32)).after, *yuv, yuv[1]]):
        sink.write(Shot(frame, frame, 10.0 + i, i))
    sink.close()
    assert names(tmp_path) == ["out-0001.mkv", "out-0002.mkv", "out-0003.mkv", "out.mkv"]
    with av.open(str(tmp_path / "out-0001.mkv")) as film:
        assert film.streams.video[0].width == 32
    with av.open(str(tmp_path / "out-0003.mkv")) as film:
        assert [float(f.time) for f in film.decode(video=0)] == [0, 1]
        assert film.streams.video[0].codec_context.colorspace == 1


@pytest.mark.parametrize("count", [0, 1, 7])
def test_abort_leaves_nothing_half_written(tmp_path: Path, count: int) -> None:
    sink = SegmentSink(tmp_path / "out.mkv")
    for i in range(count):
        sink.write(shot(i))
    assert sink.unfinished == count
    sink.abort()
    sink.abort()
    assert names(tmp_path) == [] and sink.unfinished == 0
    sink.close()
    assert names(tmp_path) == []


def test_abort_after_close_keeps_the_file(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path / "out.mkv")
    sink.write(shot(0))
    sink.close()
    assert sink.unfinished == 0
    sink.abort()
    assert names(tmp_path) == ["out.mkv"]


def test_a_full_disk_leaves_the_finished_files(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the disk: writing beyond it fails, in a process of its own."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from shots import noise, shot
from crispstream.errors import OutputError
from crispstream.sinks.segments import SegmentSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
sink = SegmentSink(Path({str(tmp_path)!r}) / "out.mkv", segment_seconds=60)
sink.write(shot(0))
try:
    for i in range(200):
        sink.write(noise(i, (320, 240)))  # another size: another file
except OutputError as error:
    print(error)
    sink.abort()
else:
    sys.exit("nothing failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "out-0002.mkv (File too large)" in done.stdout
    assert names(tmp_path) == ["out-0001.mkv"]
    assert times(tmp_path / "out-0001.mkv") == [0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_real_disk_that_is_full_and_then_has_room_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(disk).encode(), b"tmpfs", 0, b"size=256k"):
        pytest.skip("this machine mounts nothing")
    try:
        from shots import noise

        sink = SegmentSink(disk / "out.mkv", segment_seconds=60)
        sink.write(shot(0))
        with pytest.raises(OutputError, match="No space left"):
            for i in range(100):
                sink.write(noise(i, (320, 240)))
            sink.close()
        sink.abort()
        assert names(disk) == ["out-0001.mkv"]
        sink = SegmentSink(disk / "out.mkv", segment_seconds=60)
        sink.write(shot(0))
        sink.close()
        assert names(disk) == ["out-0001.mkv", "out-0002.mkv"]
    finally:
        libc.umount2(str(disk).encode(), 2)


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    sink = SegmentSink(folder / "out.mkv", segment_seconds=60)
    sink.write(shot(0))
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    with pytest.raises(OutputError):
        sink.close()
    sink.abort()
    again = SegmentSink(folder / "out.mkv")
    with pytest.raises(OutputError, match="does not exist"):
        again.write(shot(0))


def test_a_killed_recording_plays_up_to_its_end(tmp_path: Path) -> None:
    """What the documents say of Matroska: seconds are lost, not hours."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import os, signal
from dataclasses import replace
from pathlib import Path
from shots import noise
from crispstream.sinks.segments import SegmentSink
sink = SegmentSink(Path({str(tmp_path)!r}) / "out.mkv")
for i in range(80):
    sink.write(replace(noise(i, (160, 120)), captured=i / 4))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=120)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part")
    assert times(left)[-1] > 20 - 8


def test_an_unfinished_recording_of_a_still_scene_plays(tmp_path: Path) -> None:
    """Nothing is left in buffers of its own size: a scene in which nothing moves takes hours to fill one."""
    still = shot(0)
    for suffix in (".mkv", ".ts"):
        sink = SegmentSink(tmp_path / f"out{suffix}")
        for i in range(200):
            sink.write(Shot(still.before, still.after, i / 10, i))
        (left,) = tmp_path.iterdir()
        assert times(left)[-1] - times(left)[0] > 20 - 8, suffix
        sink.abort()


def test_wrong_wishes_are_told_at_once(tmp_path: Path) -> None:
    for wishes in ({"encoder": "ffv1"}, {"crf": 99}, {"speed": "warp"}, {"segment_seconds": 0.1}):
        with pytest.raises(UsageError):
            SegmentSink(tmp_path / "out.mp4", **{**wishes})
    with pytest.raises(UsageError, match="cannot write video"):
        SegmentSink(tmp_path / "out.xyz")
    assert names(tmp_path) == []


def test_nothing_grows_over_many_files(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path / "out.mkv", segment_seconds=1)

    def turns(count: int, start: int) -> None:
        for i in range(start, start + count):
            for k in range(20):
                sink.write(shot(k, 3.0 * i + k / 20))

    turns(10, 0)
    files, grown = descriptors(), list[int]()
    while not grown or (grown[-1] >= 16 << 20 and len(grown) < 3):  # what leaks does so every time
        memory = resident()
        turns(50, 10 + 50 * len(grown))  # a thousand shots
        grown.append(resident() - memory)
    assert descriptors() <= files
    assert min(grown) < 16 << 20
    sink.close()
    assert len(names(tmp_path)) == 10 + 50 * len(grown)
