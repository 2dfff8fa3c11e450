# SPDX-License-Identifier: Apache-2.0
"""Two runs that write the same output: one of them does, the file is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import Identity, read_clip, write_clip

from crispstream import run
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
