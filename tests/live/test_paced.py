# SPDX-License-Identifier: Apache-2.0
"""Films in real time, and frames on standard input."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from io import FileIO
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

import av
import numpy as np
import pytest

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame, PixelFormat
from crispstream.live.protocol import CAPTURED, POLL_SECONDS, EndOfSource, Timeouts
from crispstream.sources import pacer
from crispstream.sources.paced import PacedSource, StdinSource
from crispstream.sources.pacer import Pacer
from crispstream.sources.raw import RawSource, rawvideo
from crispstream.sources.video import VideoSource

MS = Fraction(1, 1000)


class Film:
    """Grey frames at ``times`` milliseconds."""

    def __init__(self, times: list[int | None], duration: int | None = 20) -> None:
        self._times, self._duration = times, duration
        self.warnings: list[str] = []
        self.open = True

    def __iter__(self) -> Iterator[Frame | None]:
        for time in self._times:
            planes = (np.zeros((2, 2, 3), np.uint8),)
            yield Frame(planes, PixelFormat.BGR24, pts=time, time_base=MS, duration=self._duration)

    def close(self) -> None:
        self.open = False


class Clock:
    """In place of the module ``time``: whoever sleeps, oversleeps by three milliseconds, and no real time passes."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 0.003


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one by which films are paced."""
    clock = Clock()
    monkeypatch.setattr(pacer, "time", clock)
    return clock


def play(source: PacedSource, frames: int) -> list[tuple[Frame, float]]:
    """``frames`` frames and when each came."""
    got: list[tuple[Frame, float]] = []
    while len(got) < frames:
        frame = source.read()
        if frame is not None:
            got.append((frame, pacer.time.monotonic()))
    return got


def test_frames_come_when_they_are_due_and_errors_do_not_add_up(clock: Clock) -> None:
    times = list(range(0, 800, 20))
    source = PacedSource("film", lambda: Film(list(times)))
    source.open()
    got = play(source, len(times))
    late = [came - frame.info[CAPTURED] for frame, came in got]
    assert min(late) >= 0 and max(late) < 0.004
    due = [frame.info[CAPTURED] - got[0][0].info[CAPTURED] for frame, _ in got]
    assert due == pytest.approx([time / 1000 for time in times], abs=1e-6)
    with pytest.raises(EndOfSource, match="film has ended"):
        source.read()
    source.close()


def test_a_long_gap_and_times_that_go_back_are_no_wait(clock: Clock) -> None:
    source = PacedSource("film", lambda: Film([0, 20, 90_000, 90_020, 10, 30]))
    source.open()
    begin = clock.now
    got = play(source, 6)
    assert clock.now - begin < 0.1
    due = [frame.info[CAPTURED] for frame, _ in got]
    assert due[3] - due[2] == pytest.approx(0.02) and due[5] - due[4] == pytest.approx(0.02)
    assert due == sorted(due)


def test_whoever_falls_far_behind_is_not_chased(clock: Clock) -> None:
    paced = Pacer()
    assert paced.due(Fraction(0)) == 100.0
    clock.now = 100.9
    assert paced.due(Fraction(1, 25)) == pytest.approx(100.04)  # caught up with
    clock.now = 105.0
    assert paced.due(Fraction(2, 25)) == 105.0
    assert paced.due(Fraction(3, 25)) == pytest.approx(105.04)


def test_none_says_that_a_frame_is_far_away(clock: Clock) -> None:
    source = PacedSource("film", lambda: Film([0, 700]))
    source.open()
    assert source.read() is not None
    begin = clock.now
    assert source.read() is None
    assert clock.now - begin == pytest.approx(POLL_SECONDS, abs=0.01)
    assert play(source, 1)[0][0].pts == 700


def test_a_loop_begins_again_and_times_go_on() -> None:
    films: list[Film] = []

    def make() -> Film:
        films.append(Film([100, 120, 140]))
        return films[-1]

    source = PacedSource("film", make, loop=True)
    source.open()
    got = [frame for frame, _ in play(source, 7)]
    assert [frame.pts for frame in got] == [100, 120, 140, 160, 180, 200, 220]
    assert [frame.discontinuity for frame in got] == [False, False, False, True, False, False, True]
    assert [film.open for film in films] == [False, False, True]
    source.close()
    source.close()
    assert not films[-1].open


@pytest.mark.parametrize("start", [0, 1400])
@pytest.mark.parametrize("count", [2, 5, 6])
def test_a_loop_of_frames_without_durations_keeps_their_step(count: int, start: int) -> None:
    times = list(range(start, start + 40 * count, 40))
    source = PacedSource("film", lambda: Film(list(times), duration=None), loop=True)
    source.open()
    got = [frame.pts for frame, _ in play(source, 2 * count + 1)]
    assert got == list(range(start, start + 40 * len(got), 40))
    source.close()


def test_an_empty_film_does_not_loop_for_ever() -> None:
    source = PacedSource("film", lambda: Film([]), loop=True)
    source.open()
    with pytest.raises(EndOfSource):
        source.read()


def test_what_is_no_film_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no film at all")
    source = PacedSource(path.name, lambda: VideoSource(path))
    with pytest.raises(UsageError, match="not a video"):
        source.open()
    source.close()


def test_a_pipe_that_breaks_off_in_a_header_is_final(pipe: FileIO) -> None:
    pipe.write(b"YUV4MPEG2 W4 H2 F25:1\nFRAME\n" + bytes(12) + b"garbage\n")
    source = StdinSource(None, Timeouts(open=5, read=5))
    source.open()
    assert source.read() is not None
    with pytest.raises(UsageError, match="does not begin with FRAME"):
        source.read()
    source.close()


def test_frames_without_a_time_are_refused() -> None:
    source = PacedSource("film", lambda: Film([None]))
    source.open()
    with pytest.raises(UsageError, match="without a time"):
        source.read()


def test_a_video_file_plays_in_real_time(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    source = PacedSource(path.name, lambda: VideoSource(path), loop=True)
    source.open()
    begin = monotonic()
    got = [frame for frame, _ in play(source, 21)]
    assert monotonic() - begin > 0.7  # 20 steps of 40 ms
    seconds = [frame.seconds for frame in got]
    assert [b - a for a, b in pairwise(seconds)] == [Fraction(1, 25)] * 20
    source.close()


def test_a_fifo_is_waited_for_without_hanging_and_played_from_its_first_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "in.y4m"
    os.mkfifo(path)
    source = PacedSource(path.name, lambda: RawSource(path), loop=True)
    opened = threading.Event()
    threading.Thread(target=lambda: (source.open(), opened.set()), daemon=True).start()
    assert opened.wait(30), "it hangs until somebody writes"
    for _ in range(2):  # with loop, another writer may follow
        assert source.read() is None and source.read() is None
        with FileIO(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as writer:
            writer.write(b"YUV4MPEG2 W4")
            assert source.read() is None
            writer.write(b" H2 F25:1\nFRAME\n" + bytes(range(12)))
            frame = play(source, 1)[0][0]
            assert frame.planes[0].tobytes() == bytes(range(8))
            assert source.read() is None
            writer.write(b"FRAME\n" + bytes(12))
        assert not play(source, 1)[0][0].planes[0].any()
    source.close()
    assert frame.discontinuity and frame.seconds == Fraction(2, 25)
    told = [record.getMessage() for record in caplog.records if record.name == "crispstream.live"]
    assert len(told) == 1 and "in.y4m" in told[0] and "waits" in told[0]


@pytest.mark.parametrize("data", [b"", b"no film", b"YUV4MPEG2 W4 H0 F25:1\n"])
def test_nonsense_on_a_fifo_is_final(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.y4m"
    os.mkfifo(path)
    # Both ends, so that nobody waits for the other one.
    with FileIO(os.open(path, os.O_RDWR), "wb") as both:
        source = PacedSource(path.name, lambda: RawSource(path))
        both.write(data)
        opened = threading.Event()
        threading.Thread(target=lambda: (source.open(), opened.set()), daemon=True).start()
        assert opened.wait(30)
    with pytest.raises(UsageError, match=r"in\.y4m"):
        while source.read() is None:
            pass
    source.close()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileIO]:
    """Standard input is a pipe; its other end."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    monkeypatch.setattr(sys, "__stdin__", io.StringIO())
    with FileIO(writing, "wb") as end:  # which the test may close
        yield end
    os.dup2(kept, 0)
    os.close(kept)


def test_standard_input_gives_frames_as_they_come(pipe: FileIO) -> None:
    source = StdinSource(rawvideo((4, 2), "bgr24", Fraction(25)), Timeouts(open=5, read=5))
    pipe.write(bytes(range(24)))
    source.open()
    frame = source.read()
    assert frame is not None and frame.planes[0].tobytes() == bytes(range(24))
    assert CAPTURED not in frame.info
    assert source.read() is None  # a pipe may be silent for as long as it likes
    later = threading.Thread(target=lambda: (sleep(0.1), pipe.write(bytes(24)), pipe.close()))
    later.start()
    while (frame := source.read()) is None:
        pass
    assert not frame.planes[0].any()
    later.join()
    with pytest.raises(EndOfSource, match="standard input has ended"):
        while source.read() is None:
            pass
    source.close()
    source.close()


def test_a_silent_pipe_can_be_opened_again(pipe: FileIO) -> None:
    silent = StdinSource(None, Timeouts(open=0.1, read=5))
    with pytest.raises(InputError, match=r"nothing came on standard input for 0\.1 s") as caught:
        silent.open()
    assert not isinstance(caught.value, EndOfSource)
    silent.close()
    pipe.write(b"YUV4MPEG2 W4 H2 F25:1\nFRAME\n" + bytes(12))
    source = StdinSource(None, Timeouts(open=5, read=5))
    source.open()
    frame = source.read()
    assert frame is not None and (frame.width, frame.height) == (4, 2)
    source.close()


def test_nonsense_on_a_pipe_is_final(pipe: FileIO) -> None:
    pipe.write(b"this is not yuv4mpeg\n")
    source = StdinSource(None, Timeouts(open=5, read=5))
    source.open()
    with pytest.raises(UsageError, match="not yuv4mpeg"):
        source.read()
    source.close()


def test_a_pipe_that_falls_silent_in_its_header_says_so_and_loses_nothing(pipe: FileIO) -> None:
    pipe.write(b"YUV4MPEG2 W4")
    source = StdinSource(None, Timeouts(open=0.2, read=0.2))
    source.open()
    for _ in range(3):
        begin = monotonic()
        assert source.read() is None
        assert monotonic() - begin < 30
    pipe.write(b" H2 F25:1\nFRAME\n" + bytes(range(12)))
    frame = source.read()
    assert frame is not None and (frame.width, frame.height) == (4, 2)
    assert frame.planes[0].tobytes() == bytes(range(8))
    source.close()


def test_a_terminal_gives_no_frames_and_the_hint_is_what_to_type() -> None:
    kept, (ours, theirs) = os.dup(0), os.openpty()
    os.dup2(theirs, 0)
    try:
        with pytest.raises(UsageError, match="is a terminal") as caught:
            StdinSource(None, Timeouts(open=0.1)).open()
    finally:
        os.dup2(kept, 0)
        for descriptor in (kept, ours, theirs):
            os.close(descriptor)
    assert "| crispstream live - " in caught.value.hint


def test_what_is_lost_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "crispstream.live")
    clip = tmp_path / "ten.mkv"
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p10le")))
        output.mux(stream.encode(None))
    source = PacedSource("ten.mkv", lambda: VideoSource(clip), loop=True)
    source.open()
    for _ in range(8):
        while source.read() is None:
            pass
    source.close()
    assert [r.getMessage() for r in caplog.records if r.name == "crispstream.live"] == [
        "ten.mkv: pixel format yuv420p10le is processed as 8-bit YUV 4:2:0"
    ]


def test_yuv4mpeg_is_not_taken_for_raw_frames(pipe: FileIO) -> None:
    pipe.write(b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\nFRAME\n" + bytes(64 * 48 * 3))
    source = StdinSource(rawvideo((64, 48), "i420", Fraction(25)), Timeouts())
    source.open()
    with pytest.raises(UsageError) as caught:
        source.read()
    assert "yuv4mpeg" in str(caught.value) and "--size" in caught.value.hint
    source.close()


def test_a_closed_standard_input_is_final() -> None:
    kept = os.dup(0)
    os.close(0)
    try:
        with pytest.raises(UsageError, match="closed"):
            StdinSource(None, Timeouts()).open()
    finally:
        os.dup2(kept, 0)
        os.close(kept)
