# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full, or really read-only: a file system of one MiB in memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from clips import Identity, pattern, read_clip, write_clip
from PIL import Image

from crispstream import cli, files, run
from crispstream.errors import OutputError
from crispstream.record import FILE_NAME


@pytest.fixture
def disk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a small file system cannot be mounted here: {error.stderr.strip()}")
    yield folder
    # Lazily: PyAV 17 lets go of a file whose header could not be written only when the process ends.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free(disk: Path) -> int:
    """Bytes."""
    done = subprocess.run(["df", "-B1", "--output=avail", str(disk)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[1])


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.ts", "out.y4m", "out.png"])
def test_nothing_is_left_and_the_older_file_stays(tmp_path: Path, disk: Path, name: str) -> None:
    source = tmp_path / ("in.png" if name == "out.png" else "in.mp4")
    if name == "out.png":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(source)
    else:
        write_clip(source, frames=80, size=(192, 128), content=pattern)
    (disk / name).write_text("precious")
    room = free(disk)
    with pytest.raises(OutputError, match=r"cannot write .*/disk/out\.\w+ \(No space left on device\)"):
        run(source, disk / name, deblurrer=Identity(), overwrite=True)
    assert (disk / name).read_text() == "precious"
    assert [path.name for path in disk.iterdir()] == [name] and free(disk) == room


def test_no_room_for_a_single_byte(tmp_path: Path, disk: Path) -> None:
    (disk / "rest").write_bytes(bytes(free(disk)))
    with pytest.raises(OutputError, match="No space left"):
        run(write_clip(tmp_path / "in.mp4", frames=3), disk / "out.mp4", deblurrer=Identity())
    assert [path.name for path in disk.iterdir()] == ["rest"]


def test_a_folder_job_goes_on_once_there_is_room(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", disk / "out"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    Image.fromarray(noise[:50, :50]).save(source / "a.png")
    Image.fromarray(noise).save(source / "b.png")
    write_clip(source / "c.mp4", frames=80, size=(192, 128), content=pattern)
    Image.fromarray(noise[:80, :80]).save(source / "d.png")
    monkeypatch.setattr(files, "open_deblurrer", lambda given, options: nullcontext(given or Identity()))
    monkeypatch.setattr("sys.argv", ["crispstream", "run", str(source), str(out), "--json"])
    (disk / "rest").write_bytes(bytes(600_000))
    for code, failed in ((4, ["b.png", "c.mp4"]), (0, [])):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        report = json.loads(capsys.readouterr().out)
        assert (stopped.value.code, [name for name, _ in report["failed"]]) == (code, failed)
        assert all("No space left on device" in reason and "\n" not in reason for _, reason in report["failed"])
        made = {path.name for path in source.iterdir()} - set(failed)
        assert {path.name for path in out.iterdir()} == {FILE_NAME, *made}
        (disk / "rest").unlink(missing_ok=True)
        if failed:
            assert report["unchanged"] == []
            subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert report["unchanged"] == ["a.png", "d.png"] and len(read_clip(out / "c.mp4").pts) == 80


def test_a_folder_that_is_read_only(tmp_path: Path, disk: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", frames=3)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OutputError, match=r"cannot write in .*/disk \(Read-only file system\)"):
        run(source, disk / "out.mp4", deblurrer=Identity())
