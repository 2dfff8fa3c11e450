# SPDX-License-Identifier: Apache-2.0
"""What the user sees while a run goes on, and where."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from clips import Identity, write_clip

from crispstream import run
from crispstream.progress import Bar, Lines, Silent, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_display_fits_the_stream() -> None:
    assert isinstance(make_progress(stream=Terminal()), Bar)
    assert isinstance(make_progress(stream=io.StringIO()), Lines)
    assert isinstance(make_progress(quiet=True, stream=Terminal()), Silent)


def test_lines_tell_frames_speed_and_time_left() -> None:
    log = io.StringIO()
    lines = Lines(log, "comparing", seconds_per_line=0)
    lines.start(10)
    lines.update(0)
    lines.update(4)
    lines.start(None)
    lines.update(5)
    nothing, first, second = log.getvalue().splitlines()
    assert nothing == "comparing: 0/10 frames, 0.0 fps", "nobody knows yet how long it takes"
    assert first.startswith("comparing: 4/10 frames, ") and first.endswith(" s left")
    assert second.startswith("comparing: 5 frames, ") and second.endswith(" fps")


def test_lines_keep_their_distance() -> None:
    log = io.StringIO()
    lines = Lines(log, "deblurring", seconds_per_line=60)
    lines.start(1000)
    for done in range(1000):
        lines.update(done)
    assert log.getvalue() == ""


def test_the_bar_shows_speed_and_goes_away() -> None:
    terminal = Terminal()
    bar = Bar(terminal, "deblurring")
    bar.start(10)
    bar.update(5)
    bar.stop()
    bar.stop()
    assert "5/10" in terminal.getvalue() and "fps" in terminal.getvalue()


def test_progress_goes_to_stderr_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crispstream.progress._SECONDS_PER_LINE", 0.0)
    write_clip(tmp_path / "in.mp4", frames=20)
    run(tmp_path / "in.mp4", tmp_path / "loud.mp4", deblurrer=Identity(), progress=True)
    loud = capsys.readouterr()
    assert loud.out == "" and "/20 frames" in loud.err
    run(tmp_path / "in.mp4", tmp_path / "quiet.mp4", deblurrer=Identity())
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
