# SPDX-License-Identifier: Apache-2.0
"""A run that is killed leaves a temporary file; the next one in that folder takes it away, and no other's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from clips import Identity, pattern, read_clip, write_clip
from PIL import Image

from crispstream import files, run
from crispstream.compare import compare
from crispstream.jobs import FolderJob
from crispstream.record import FILE_NAME
from crispstream.sinks.partial import SUFFIX, PartialFile, sweep

# Runs until frame 20 of a film, or until a picture is half written, says so and waits for the end.
SLOW = """
    import sys, time
    from contextlib import nullcontext
    from pathlib import Path
    from clips import Identity
    from PIL import Image
    from crispstream import files, run
    from crispstream.jobs import FolderJob

    def wait():
        print("now", flush=True)
        time.sleep(600)

    def save(self, path, *rest, **options):
        Path(path).write_bytes(b"half a picture")
        wait()

    source, target = map(Path, sys.argv[1:])
    if source.suffix == ".png":
        Image.Image.save = save
    slow = Identity(lambda index: wait() if index == 20 else None)
    if source.is_dir():
        files.open_deblurrer = lambda given, options: nullcontext(given or slow)
        FolderJob(source, target, {}, {}).run()
    else:
        run(source, target, deblurrer=slow)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def kill(source: Path, target: Path) -> None:
    """Start a run and end it in the middle, as the power does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(SLOW), str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


def partial(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(SUFFIX)]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.y4m", "out.png"])
def test_the_next_run_clears_up(tmp_path: Path, name: str) -> None:
    source = tmp_path / ("in.png" if name == "out.png" else "in.mp4")
    if source.suffix == ".png":
        Image.new("RGB", (8, 8)).save(source)
    else:
        write_clip(source, frames=40, size=(160, 96), content=pattern)
    kill(source, tmp_path / name)
    assert len(partial(tmp_path)) == 1 and not (tmp_path / name).exists()
    run(source, tmp_path / name, deblurrer=Identity())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, name])


def test_a_folder_job_clears_up_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_clip(source / "a.mp4", frames=15)
    write_clip(source / "b.mp4", frames=40)
    write_clip(source / "c.mp4", frames=40)
    kill(source, target)
    assert (target / "a.mp4").exists() and len(partial(target)) == 1
    (source / "b.mp4").unlink()  # nobody makes that output again
    monkeypatch.setattr(files, "open_deblurrer", lambda given, options: given or Identity())
    monkeypatch.setattr(Identity, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(Identity, "__exit__", lambda self, *_: None, raising=False)
    report = FolderJob(source, target, {}, {}).run()
    assert ([Path(one.input).name for one in report.files], report.unchanged) == (["c.mp4"], ["a.mp4"])
    assert sorted(path.name for path in target.iterdir()) == [FILE_NAME, "a.mp4", "c.mp4"]
    assert len(read_clip(target / "c.mp4").pts) == 40


def test_compare_clears_up(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    (tmp_path / f".old.png.01234567{SUFFIX}").touch()
    compare(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "out.png"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "other.mp4")
    (tmp_path / f"link{SUFFIX}").symlink_to("in.mp4")
    os.mkfifo(tmp_path / f"pipe{SUFFIX}")
    run(write_clip(tmp_path / "in.mp4", frames=3), tmp_path / "out.mp4", deblurrer=Identity())
    file.temporary.write_bytes(b"whole")
    file.commit()
    assert (tmp_path / "other.mp4").read_bytes() == b"whole" and len(read_clip(tmp_path / "in.mp4").pts) == 3
    sweep(tmp_path / "none")


OPENING = """
    import time
    from crispstream import cli, files

    def opens(given, options):
        print("now", flush=True)
        time.sleep(600)

    files.open_deblurrer = opens
    cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_frame_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    write_clip(tmp_path / "in.mp4", frames=3)
    command = [sys.executable, "-c", textwrap.dedent(OPENING), "run", str(tmp_path / "in.mp4"), str(tmp_path / "o.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"now\n" and len(partial(tmp_path)) == 1
        process.send_signal(number)
        assert process.wait(30) == 130 and process.stderr.read() == b"crispstream: error: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_names_as_long_as_the_system_takes(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".mp4", "é" * 125 + ".mkv"):
        run(write_clip(tmp_path / "in.mp4", frames=2), tmp_path / name, deblurrer=Identity())
        assert len(read_clip(tmp_path / name).pts) == 2
