# SPDX-License-Identifier: Apache-2.0
"""Folder jobs: what is done, what is left alone, what a failing file does to the others."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from crispstream import cli, files, jobs
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.frame import Frame
from crispstream.jobs import FolderJob, JobReport
from crispstream.lock import OutputLock
from crispstream.record import FILE_NAME


class Copy:
    """A frame that was ready at once."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def result(self) -> Frame:
        return self._frame


class Copies:
    """A deblurrer that changes nothing and counts."""

    def __init__(self) -> None:
        self.frames = 0
        self.hook: Callable[[int], object] = lambda frames: None

    def submit(self, frame: Frame) -> Copy:
        self.frames += 1
        self.hook(self.frames)
        return Copy(frame)

    def open_stream(self) -> Copies:
        return self


@pytest.fixture
def deblurrer(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    copies = Copies()
    monkeypatch.setattr(files, "open_deblurrer", lambda given, options: nullcontext(given or copies))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return copies


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / name)
    with av.open(str(folder / "film.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            picture = np.full((48, 64, 3), 40 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    (folder / "notes.txt").write_text("not asked for")
    return folder


def do(folder: Path, overwrite: bool = False, **settings: Any) -> JobReport:
    return FolderJob(folder, folder.parent / "out", settings, {}, overwrite).run()


def names(report: JobReport) -> list[str]:
    return [Path(run.input).name for run in report.files]


def test_pictures_and_videos_are_done_once(folder: Path, deblurrer: Copies) -> None:
    first = do(folder)
    out = folder.parent / "out"
    assert names(first) == ["a.png", "b.png", "c.png", "film.avi"] and first.exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == [FILE_NAME, "a.png", "b.png", "c.png", "film.avi.mkv"]
    assert (first.to_dict()["frames"], deblurrer.frames) == (8, 8)
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    second = do(folder, overwrite=True)
    assert (names(second), len(second.unchanged), deblurrer.frames) == ([], 4, 8)
    assert times == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}


def test_what_changed_is_done_again(folder: Path, deblurrer: Copies) -> None:
    do(folder)
    Image.new("RGB", (16, 16), (99, 0, 0)).save(folder / "b.png")
    (folder.parent / "out" / "c.png").unlink()
    assert names(do(folder)) == ["b.png", "c.png"]
    with Image.open(folder.parent / "out" / "b.png") as picture:
        assert picture.getpixel((0, 0)) == (99, 0, 0)
    assert names(do(folder)) == []
    assert len(names(do(folder, quality=80))) == 4, "other settings"


def test_an_output_that_is_not_ours_stays(folder: Path, deblurrer: Copies) -> None:
    do(folder)
    mine = folder.parent / "out" / "b.png"
    mine.write_bytes(b"touched up by hand")
    Image.new("RGB", (16, 16), (99, 0, 0)).save(folder / "b.png")
    report = do(folder)
    assert report.exit_code == OutputError.exit_code and mine.read_bytes() == b"touched up by hand"
    assert report.failed[0][0] == "b.png" and "--overwrite" in report.failed[0][1] and len(report.unchanged) == 3
    assert names(do(folder, overwrite=True)) == ["b.png"]
    with Image.open(mine) as picture:
        assert picture.getpixel((0, 0)) == (99, 0, 0)


def test_a_failing_file_does_not_stop_the_others(folder: Path, deblurrer: Copies) -> None:
    (folder / "a.png").write_text("no picture")
    (folder / "film.avi").write_text("no film")
    report = do(folder)
    assert names(report) == ["b.png", "c.png"] and report.exit_code == InputError.exit_code
    assert [name for name, _ in report.failed] == ["a.png", "film.avi"]
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    again = do(folder)
    assert (names(again), again.unchanged) == (["a.png"], ["b.png", "c.png"])


def test_an_unexpected_failure_is_one_file_s(folder: Path, deblurrer: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    run = files.run

    def fails(src: Path, dst: Path, **options: Any) -> Any:
        if src.name == "b.png":
            raise ZeroDivisionError("oh")
        return run(src, dst, **options)

    monkeypatch.setattr(files, "run", fails)
    report = do(folder)
    assert len(names(report)) == 3 and report.failed == [("b.png", "ZeroDivisionError: oh")] and report.exit_code == 1


def test_an_interrupted_film_is_done_again(folder: Path, deblurrer: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    run = files.run

    def stops(src: Path, dst: Path, **options: Any) -> Any:
        report = run(src, dst, **options)
        object.__setattr__(report, "interrupted", True)
        return report

    monkeypatch.setattr(files, "run", stops)
    report = do(folder)
    assert report.interrupted and names(report) == ["a.png"]
    monkeypatch.setattr(files, "run", run)
    assert len(names(do(folder))) == 4


def film(path: Path, *widths: int) -> Path:
    """Ten frames of each width, one after the other; .ts for more than one."""
    pieces = []
    for width in widths:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame(width, 48, "yuv420p")))
            container.mux(stream.encode())
        pieces.append(path.read_bytes())
    path.write_bytes(b"".join(pieces))
    return path


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_film_that_ends_early_is_ours_and_done_again(folder: Path, deblurrer: Copies) -> None:
    film(folder / "two.ts", 64, 96)
    for _ in range(2):
        report = do(folder)
        assert report.exit_code == InputError.exit_code
        assert [name for name, _ in report.failed] == ["two.ts"] and "the output ends there" in report.failed[0][1]
        assert frames(folder.parent / "out" / "two.ts") == 10
    film(folder / "two.ts", 64)
    assert names(do(folder)) == ["two.ts"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_another_size_and_then_ctrl_c(
    folder: Path,
    deblurrer: Copies,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in folder.iterdir():
        path.unlink()
    film(folder / "a.ts", 64, 96)
    film(folder / "b.mp4", 64)
    film(folder / "c.mp4", 64)
    out = folder.parent / "out"
    deblurrer.hook = lambda frames: os.kill(os.getpid(), number) if frames == 13 else None  # the third of b.mp4
    monkeypatch.setattr("sys.argv", ["crispstream", "run", str(folder), str(out), "--json"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    report = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 130 and report["interrupted"] and report["exit_code"] == InputError.exit_code
    assert [name for name, _ in report["failed"]] == ["a.ts"] and len(report["files"]) == 1
    assert frames(out / "a.ts") == 10 and 3 <= frames(out / "b.mp4") < 10 and not (out / "c.mp4").exists()
    deblurrer.hook = lambda frames: None
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    again = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 3 and [Path(one["input"]).name for one in again["files"]] == ["b.mp4", "c.mp4"]
    assert again["unchanged"] == [] and [name for name, _ in again["failed"]] == ["a.ts"]
    assert (frames(out / "b.mp4"), frames(out / "c.mp4")) == (10, 10)
    film(folder / "a.ts", 64)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and json.loads(capsys.readouterr().out)["unchanged"] == ["b.mp4", "c.mp4"]


def test_ctrl_c_while_a_film_ends_early_ends_the_job(folder: Path, deblurrer: Copies) -> None:
    for path in folder.iterdir():
        path.unlink()
    film(folder / "a.ts", 64, 96)
    film(folder / "b.mp4", 64)

    def press(frames: int) -> None:
        if frames == 10:  # the last one before the other size, after which the reader ends
            late = time.monotonic() + 60
            while any(thread.name == "crispstream-reader" for thread in threading.enumerate()):
                assert time.monotonic() < late
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    deblurrer.hook = press
    report = do(folder)
    assert report.interrupted and names(report) == ["a.ts"] and deblurrer.frames == 10
    deblurrer.hook = lambda frames: None
    again = do(folder)
    assert (names(again), [name for name, _ in again.failed]) == (["b.mp4"], ["a.ts"])


def test_a_damaged_record_costs_work_only(folder: Path, deblurrer: Copies) -> None:
    do(folder)
    record = folder.parent / "out" / FILE_NAME
    lines = record.read_text().splitlines()
    record.write_text("\n".join([lines[0], "[]", '{"output": 1}', *lines[1:3], lines[3][:40]]))
    report = do(folder)
    assert (names(report), report.failed[0][0], len(report.unchanged)) == ([], "film.avi", 3)
    do(folder, overwrite=True)
    assert len(do(folder).unchanged) == 4, "the line after the one that was cut off counts"


def test_two_jobs_in_one_folder(folder: Path, deblurrer: Copies) -> None:
    lock = OutputLock(folder.parent / "out")
    with pytest.raises(OutputError, match="another run is writing"):
        do(folder)
    lock.release()
    assert len(names(do(folder))) == 4


def test_what_makes_no_job(folder: Path, tmp_path: Path, deblurrer: Copies) -> None:
    for target, message in ((folder, "the output is the input"), (tmp_path / "out.mp4", "is a file name")):
        with pytest.raises(UsageError, match=message):
            FolderJob(folder, target, {}, {})
    with pytest.raises(UsageError, match="unknown preset"):
        FolderJob(folder, tmp_path / "out", {}, {"preset": "gigantic"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture and no video"):
        FolderJob(tmp_path / "empty", tmp_path / "out", {}, {})
    with pytest.raises(OutputError, match="cannot make the folder"):
        FolderJob(folder, tmp_path / "no" / "out", {}, {}).run()
    (folder / "film.avi.mkv").touch()
    with pytest.raises(UsageError, match="would become one"):
        FolderJob(folder, tmp_path / "out", {}, {})
    assert not (tmp_path / "out").exists() and jobs.VIDEO_SUFFIXES


def test_the_command_sums_up(
    folder: Path, deblurrer: Copies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.png").write_text("no picture")
    for extra, expected in (([], "3 done, 0 finished before, 1 failed"), ([], "0 done, 3 finished before, 1 failed")):
        monkeypatch.setattr("sys.argv", ["crispstream", "run", str(folder), str(folder.parent / "out"), *extra])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert stopped.value.code == 3 and expected in out and "failed: a.png: " in out
    monkeypatch.setattr("sys.argv", ["crispstream", "run", str(folder), str(folder.parent / "out"), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert err == "" and data["unchanged"] == ["b.png", "c.png", "film.avi"] and data["failed"][0][0] == "a.png"
    assert os.sep in data["output"]


def test_a_name_that_looks_like_a_pattern(folder: Path, deblurrer: Copies) -> None:
    (folder / "b.png").rename(folder / "sale_50%d.png")
    report = do(folder)
    assert names(report) == ["a.png", "c.png", "film.avi", "sale_50%d.png"] and not report.failed
    assert (folder.parent / "out" / "sale_50%d.png").is_file()
    assert len(do(folder).unchanged) == 4


def test_folders_are_passed_over_whatever_they_are_called(folder: Path, deblurrer: Copies) -> None:
    (folder / "x.png").mkdir()
    (folder / "gone.png").symlink_to("nowhere")
    report = do(folder)
    assert [name for name, _ in report.failed] == ["gone.png"] and len(report.files) == 4


def test_times_are_for_the_videos(folder: Path, deblurrer: Copies) -> None:
    report = do(folder, start="0.08", end=None)
    assert report.exit_code == 0 and [one.frames for one in report.files] == [1, 1, 1, 3]
    (folder / "film.avi").unlink()
    with pytest.raises(UsageError, match="no video"):
        do(folder, start="0.08", end=None)
    with pytest.raises(UsageError, match="is not a time"):
        do(folder, start="soon", end=None)
