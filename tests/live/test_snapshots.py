# SPDX-License-Identifier: Apache-2.0
"""Pictures of a live stream: when, under which name, and whole whatever happens."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shots import descriptors, noise, resident, shot
from stand_ins import wait_for

from crispstream.errors import OutputError, UsageError
from crispstream.frame import ColorSpec, Frame, PixelFormat, Range
from crispstream.live.protocol import Shot
from crispstream.sinks.snapshots import SnapshotSink


def column(path: Path) -> int:
    """Where the bright column of ``shot`` is, divided by four: the number of the shot."""
    with Image.open(path) as picture:
        return int(np.asarray(picture)[10, :, 0].argmax()) // 4


def test_the_latest_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "latest.png"
    sink = SnapshotSink(path, every=10)
    seen = []
    for i in range(14):
        sink.write(shot(i, 100.0 + 2 * i))
        seen.append(column(path))
    assert seen == [0] * 5 + [5] * 5 + [10] * 4
    assert os.listdir(tmp_path) == ["latest.png"]


def test_times_do_not_wander_and_a_pause_is_not_made_up_for(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path / "n-%04d.png", every=1)
    for i, captured in enumerate((0, 0.9, 1.4, 1.9, 2.1, 9.5, 9.7, 10.4, 10.5)):
        sink.write(shot(i, captured))
    assert [column(path) for path in sorted(tmp_path.iterdir())] == [0, 2, 4, 5, 8]


def test_names_by_time_never_collide(tmp_path: Path) -> None:
    now = time.monotonic()
    for _ in range(2):  # the second sink is what comes after an error or a restart
        sink = SnapshotSink(tmp_path / "%Y" / "cam-%Y.jpg", every=0.5)
        for i in range(3):
            sink.write(shot(i, now + i))
    year = time.strftime("%Y")
    found = sorted(path.name for path in (tmp_path / year).iterdir())
    assert found == [f"cam-{year}{number}.jpg" for number in ("-0001", "-0002", "-0003", "-0004", "-0005", "")]


def test_colour_of_yuv_is_kept(tmp_path: Path) -> None:
    y, u, v = (np.full(shape, code, np.uint8) for shape, code in (((32, 32), 76), ((16, 16), 85), ((16, 16), 255)))
    frame = Frame((y, u, v), PixelFormat.I420, ColorSpec(range=Range.FULL))
    SnapshotSink(tmp_path / "red.png").write(Shot(frame, frame, 0.0, 0))
    with Image.open(tmp_path / "red.png") as picture:
        red, green, blue = np.asarray(picture)[16, 16]
    assert red > 240 and blue < 20 and green < 60


def test_a_picture_of_somebody_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(b"dear")
    with pytest.raises(OutputError, match="exists"):
        SnapshotSink(path).write(shot(0))
    assert path.read_bytes() == b"dear"
    SnapshotSink(path, overwrite=True).write(shot(1))
    assert column(path) == 1
    SnapshotSink(path).write(shot(2))  # made anew after an error: by now it is its own
    assert column(path) == 2


def test_whoever_looks_sees_a_whole_picture(tmp_path: Path) -> None:
    path = tmp_path / "latest.jpg"
    sink = SnapshotSink(path, every=0.001)
    sink.write(noise(0, (160, 120)))
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.is_set():
            with Image.open(path) as picture:
                seen.append(np.asarray(picture).shape[0])  # raises on a picture that is cut short

    reader = threading.Thread(target=look)
    reader.start()
    written = 0

    def enough() -> bool:
        nonlocal written
        sink.write(noise(written % 60, (160, 120)))
        written += 1
        assert reader.is_alive()
        return written >= 60 and len(seen) > 10

    try:
        wait_for(enough)
    finally:
        done.set()
        reader.join(60)
    assert set(seen) == {120}


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Nothing beyond 2,000 bytes can be written, the test's own report included."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_keeps_the_last_picture(tmp_path: Path) -> None:
    path = tmp_path / "latest.jpg"
    sink = SnapshotSink(path, every=0.001)
    with full_disk():
        sink.write(shot(0, 1.0))
        before = path.read_bytes()
        with pytest.raises(OutputError, match="cannot write"):
            sink.write(noise(1))
        sink.abort()
    assert os.listdir(tmp_path) == ["latest.jpg"]
    assert path.read_bytes() == before
    again = SnapshotSink(path)
    again.write(shot(5))
    assert path.read_bytes() != before


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    sink = SnapshotSink(folder / "latest.jpg", every=0.001)
    sink.write(shot(0, 1.0))
    (folder / "latest.jpg").unlink()
    folder.rmdir()
    with pytest.raises(OutputError, match="does not exist"):
        sink.write(shot(1, 2.0))


def test_wrong_wishes_are_told_at_once(tmp_path: Path) -> None:
    for path, wishes in (("a.gif", {}), ("a.jpg", {"every": 0})):
        with pytest.raises(UsageError):
            SnapshotSink(tmp_path / path, **wishes)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_nothing_grows_over_a_thousand_shots(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path / "latest.jpg", every=5)
    for i in range(100):
        sink.write(shot(i, float(i)))
    files, memory = descriptors(), resident()
    for i in range(100, 1100):
        sink.write(shot(i, float(i)))
    assert descriptors() <= files
    assert resident() - memory < 8 << 20
    assert os.listdir(tmp_path) == ["latest.jpg"]
