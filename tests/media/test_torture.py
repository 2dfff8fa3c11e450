# SPDX-License-Identifier: Apache-2.0
"""What users throw at it: strange sizes, times, names and files that change under our hands. See docs/inputs.md."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import STEP, TICK, Identity, pattern, read_clip, write_clip
from PIL import Image

from crispstream import Deblurrer, cli, run
from crispstream.errors import InputError, OutputError
from crispstream.jobs import FolderJob

STRANGE_NAMES = [
    "two words.mp4", "it's \"q\".mp4", "ünï 日本.mp4", "-dash.mp4", "100%.mp4", "$(x);&.mp4", "new\nline.mp4",
    "10:30.mp4", "concat:a.mp4", "http:x.mp4", "file:x.mp4", "a*b[c]?.mp4",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_stays_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


@pytest.mark.parametrize("source", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_one_frame(tmp_path: Path, source: str, target: str) -> None:
    report = run(write_clip(tmp_path / f"in{source}", frames=1), tmp_path / f"out{target}", deblurrer=Identity())
    assert (report.frames, len(read_clip(tmp_path / f"out{target}").pts)) == (1, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
def test_no_frame(tmp_path: Path, suffix: str) -> None:
    with av.open(str(tmp_path / f"in{suffix}"), "w") as output:
        stream = output.add_stream("mpeg4", rate=25, width=64, height=48)
        stream.pix_fmt = "yuv420p"
        output.start_encoding()
    with pytest.raises(InputError, match=r"no video stream|no frame|not a video") as caught:
        run(tmp_path / f"in{suffix}", tmp_path / "out.mp4", deblurrer=Identity())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.mp4").exists()


def test_a_list_of_files_is_not_followed(tmp_path: Path) -> None:
    write_clip(tmp_path / "secret.mkv", frames=2)
    (tmp_path / "in.mp4").write_text("ffconcat version 1.0\nfile secret.mkv\n")
    with pytest.raises(InputError, match="list of other files"):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("size", [(641, 361), (16, 16), (1, 1), (9, 200)])
def test_strange_sizes_through_the_network(tmp_path: Path, size: tuple[int, int]) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(samples).save(tmp_path / "in.png")
    with av.open(str(tmp_path / "in.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25, width=size[0], height=size[1])
        stream.pix_fmt = "yuv420p"
        for _ in range(2):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(samples, "rgb24")))
        output.mux(stream.encode(None))
    with Deblurrer("nano", "cpu") as deblurrer:
        run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=deblurrer)
        report = run(tmp_path / "in.mkv", tmp_path / "out.mkv", deblurrer=deblurrer, encoder="ffv1")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == size
    result = read_clip(tmp_path / "out.mkv")
    assert (result.size, len(result.pts), report.frames) == (size, 2, 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_times_that_jump_by_an_hour_are_kept(tmp_path: Path, suffix: str) -> None:
    times = [0, STEP, 2 * STEP, 2 * STEP + 12800 * 3600, 3 * STEP + 12800 * 3600]
    source = read_clip(write_clip(tmp_path / f"in{suffix}", pts=times))
    report = run(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", deblurrer=Identity())
    result = read_clip(tmp_path / f"out{suffix}")
    assert result.times == source.times and report.frames == 5
    assert result.times[3] - result.times[2] == 3600


@pytest.mark.parametrize(
    ("time_base", "times"),
    [
        (Fraction(1, 2**31 - 1), [0, 2**31 // 25, 2**32 // 25]),
        (Fraction(1, 1000000), [2**31 - 40000, 2**31, 2**31 + 40000]),
        (TICK, [2**40, 2**40 + STEP, 2**40 + 2 * STEP]),
    ],
)
def test_clocks_at_their_limits(tmp_path: Path, time_base: Fraction, times: list[int]) -> None:
    source = read_clip(write_clip(tmp_path / "in.mp4", pts=times, time_base=time_base))
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert (result.pts, result.time_base) == (source.pts, source.time_base)


@pytest.mark.parametrize("tick", [(2**31 - 1, 1000000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 0), (1, 0), (2**32 - 1, 1)])
def test_ticks_of_an_avi(tmp_path: Path, tick: tuple[int, int]) -> None:
    """dwScale and dwRate: (2^31 - 1, 1000000) says that a frame stands for 2147 seconds."""
    path = write_clip(tmp_path / "in.avi", frames=3, codec="mpeg4")
    data = bytearray(path.read_bytes())
    start = data.index(b"strh") + 28
    data[start : start + 8] = struct.pack("<II", *tick)
    path.write_bytes(data)
    report = run(path, tmp_path / "out.mkv", deblurrer=Identity())
    assert report.frames == 3 == len(read_clip(tmp_path / "out.mkv").pts)
    try:
        run(path, tmp_path / "out.mp4", deblurrer=Identity())
    except OutputError as error:
        assert tick[0] > 2**30 and ".mkv" in error.hint and not (tmp_path / "out.mp4").exists()
    else:
        assert len(read_clip(tmp_path / "out.mp4").pts) == 3


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_strange_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "plain.mp4", frames=2, audio="aac").rename(tmp_path / name)
    (tmp_path / "to").mkdir()
    report = run(name, os.path.join("to", name), deblurrer=Identity())
    result = read_clip(tmp_path / "to" / name)
    assert (report.frames, len(result.pts), report.skipped) == (2, 2, []) and result.packets[1]
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / f"{name}.png")
    run(f"{name}.png", os.path.join("to", f"{name}.png"), deblurrer=Identity())
    assert Image.open(tmp_path / "to" / f"{name}.png").size == (8, 8)


def test_names_that_the_system_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, long = write_clip(tmp_path / "in.mp4", frames=2), "x" * 300 + ".mp4"
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for bad in (long, "loop.mp4"):
        with pytest.raises(InputError, match="cannot be reached"):
            run(tmp_path / bad, tmp_path / "out.mp4", deblurrer=Identity())
        with pytest.raises(OutputError, match="cannot be reached"):
            run(path, tmp_path / bad, deblurrer=Identity(), overwrite=True)
    with pytest.raises(OutputError, match="cannot be reached"):
        FolderJob(tmp_path, tmp_path / long, {}, {})
    assert (tmp_path / "loop.mp4").is_symlink()
    monkeypatch.setattr("sys.argv", ["crispstream", "run", long, "out.mp4"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == InputError.exit_code and "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("side", [60000, 30000])
def test_a_png_that_claims_to_be_huge(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"in\.png is"):
        run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "nothing of that size was made"
    assert [p.name for p in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_file_that_is_being_written(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"in{suffix}", frames=100, content=pattern, options={"g": "10", "bf": "0"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    def grow(index: int) -> None:
        if index == 5:
            with path.open("ab") as file:
                file.write(whole[len(whole) // 2 :])

    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(grow))
    assert 30 < report.frames <= 100
    assert report.frames == len(read_clip(tmp_path / "out.mp4").pts)
    assert report.frames == 100 or report.warnings


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_that_shrinks_or_goes_while_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"in{suffix}", frames=60, size=(160, 96), content=pattern, audio="aac")
    size = path.stat().st_size

    def shrink(index: int) -> None:
        if index == 5:
            os.truncate(path, size // 2)
            path.unlink()

    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(shrink))
    assert 5 < report.frames < 60 and report.warnings
    assert report.frames == len(read_clip(tmp_path / "out.mp4").pts)


FULL = """
    import resource, sys
    from clips import Identity
    from crispstream import run
    from crispstream.errors import CrispStreamError

    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        run(sys.argv[1], sys.argv[2], deblurrer=Identity(), overwrite=True)
    except CrispStreamError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.ts", "out.png", "out.y4m"])
def test_a_disk_that_takes_no_more(tmp_path: Path, name: str) -> None:
    """A limit on the size of files stands for the full disk: the file system refuses in the middle of the output."""
    source = tmp_path / f"in.{'png' if name == 'out.png' else 'mp4'}"
    if source.suffix == ".png":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).save(source)
    else:
        write_clip(source, frames=20, size=(160, 96), content=pattern)
    (tmp_path / name).write_text("precious")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(source), str(tmp_path / name)],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (OutputError.exit_code, "")
    assert done.stdout.startswith("cannot write") and "File too large" in done.stdout and done.stdout.count("\n") == 1
    assert (tmp_path / name).read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, name])
