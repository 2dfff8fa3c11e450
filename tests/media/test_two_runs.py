# SPDX-License-Identifier: Apache-2.0
"""Two runs that write the same output: one of them does, the file is whole."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from clips import Identity, read_clip, write_clip

from crispstream import Deblurrer, run
from crispstream.errors import OutputError
from crispstream.lock import OutputLock
from crispstream.sinks.partial import PartialFile


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_second_run_is_refused_before_it_works(tmp_path: Path, overwrite: bool) -> None:
    source, target = write_clip(tmp_path / "in.mp4", frames=30), tmp_path / "out.mp4"
    refused: list[str] = []

    def second(index: int) -> None:
        if index == 10:
            with pytest.raises(OutputError, match="another run is writing") as caught:
                run(source, target, deblurrer=Identity(), overwrite=overwrite)
            refused.append(str(caught.value))

    report = run(source, target, deblurrer=Identity(second), overwrite=overwrite)
    assert len(refused) == 1 and report.frames == 30 == len(read_clip(target).pts)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_a_lock_ends_with_its_run(tmp_path: Path, own_cache: Path) -> None:
    PartialFile(tmp_path / "out.mp4").discard()
    lock = OutputLock(tmp_path / "out.mp4")
    lock.release()
    lock.release()
    file = PartialFile(tmp_path / "out.mp4")
    file.temporary.write_bytes(b"whole")
    file.commit()
    assert (tmp_path / "out.mp4").read_bytes() == b"whole"
    assert not list((own_cache / "crispstream" / "locks").iterdir())


def test_without_a_cache_the_first_that_ends_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines, or two users: nobody sees the other's lock."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first, second = PartialFile(tmp_path / "out.mp4"), PartialFile(tmp_path / "out.mp4")
    for file, content in ((first, b"first"), (second, b"second")):
        file.temporary.write_bytes(content)
    first.commit()
    with pytest.raises(OutputError, match="exists"):
        second.commit()
    assert (tmp_path / "out.mp4").read_bytes() == b"first"
    assert not list(tmp_path.glob(".*"))


def test_what_came_in_the_meantime_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the name, that is: the file system itself has to refuse."""
    file = PartialFile(tmp_path / "out.mp4")
    file.temporary.write_bytes(b"ours")
    looked = PartialFile._check_target

    def look(self: PartialFile) -> None:
        looked(self)
        if not self.path.exists():
            self.path.write_bytes(b"theirs")

    monkeypatch.setattr(PartialFile, "_check_target", look)
    with pytest.raises(OutputError, match="exists"):
        file.commit()
    assert (tmp_path / "out.mp4").read_bytes() == b"theirs"


_RACER = """
import fcntl, os, random, sys, time
from pathlib import Path
from crispstream.errors import OutputError
from crispstream.lock import OutputLock

folder, until = Path(sys.argv[1]), time.monotonic() + 30
taken, locked = 0, fcntl.flock

def late(file, how):
    time.sleep(0.004 * random.random())
    locked(file, how)

fcntl.flock = late
while taken < 30 and time.monotonic() < until:
    try:
        lock = OutputLock(folder / "out.mp4")
    except OutputError:
        continue
    os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
    time.sleep(0.001)
    os.unlink(folder / "inside")
    lock.release()
    taken += 1
print(taken)
"""


def test_one_of_several_processes_holds_the_lock(tmp_path: Path, own_cache: Path) -> None:
    """With all the time in the world between opening the lock file and locking it."""
    command = [sys.executable, "-c", _RACER, str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], ends
    assert all(int(out) > 0 for out, _ in ends)
    assert not list((own_cache / "crispstream" / "locks").iterdir())


def test_between_opening_and_locking_the_holder_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, locked = OutputLock(tmp_path / "out.mp4"), fcntl.flock

    def late(file: IO[bytes], how: int) -> None:
        first.release()
        locked(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = OutputLock(tmp_path / "out.mp4")
    with pytest.raises(OutputError, match="another run is writing"):
        OutputLock(tmp_path / "out.mp4")
    second.release()


def test_a_user_without_a_home_writes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    source = write_clip(tmp_path / "in.mp4")
    assert run(source, tmp_path / "out.mp4", deblurrer=Identity()).frames == 12
    with Deblurrer(device="cpu") as deblurrer:
        assert deblurrer.engine.name == "onnxruntime", "INT8 graphs cannot be anywhere"


def test_what_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    source, target = write_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    target.touch(0o600)
    seen: list[int] = []

    def look(index: int) -> None:
        seen.extend(p.stat().st_mode & 0o777 for p in tmp_path.glob(".*.part"))

    run(source, target, deblurrer=Identity(look), overwrite=True)
    assert target.stat().st_mode & 0o777 == 0o600 and set(seen) == {0o600}
    target.chmod(0o444)
    run(source, target, deblurrer=Identity(), overwrite=True)
    assert target.stat().st_mode & 0o777 == 0o444
