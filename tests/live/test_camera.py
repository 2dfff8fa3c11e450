# SPDX-License-Identifier: Apache-2.0
"""Cameras, without one: OpenCV's VideoCapture is a stand-in that freezes, babbles and changes its mind."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from stand_ins import wait_for

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame, PixelFormat, Range
from crispstream.live.protocol import CAPTURED, EndOfSource, HangingError, Timeouts
from crispstream.sources import camera as module
from crispstream.sources.camera import CameraSource

cv2: Any = pytest.importorskip("cv2", reason="needs opencv-python-headless")

PATIENT = Timeouts(open=120, read=120)
"""For cameras that give frames: a busy machine may let one wait."""
SHORT = Timeouts(open=120, read=0.5)
Read = tuple[bool, "np.ndarray[Any, Any] | None"]


class Camera:
    """What VideoCapture is to CameraSource. ``act`` gives what each ``read`` returns, by its number."""

    def __init__(self, act: Callable[[int], Read], opened: bool = True, given: dict[int, float] | None = None) -> None:
        self._act, self._opened = act, opened
        self.given = given or {}
        self.asked: list[tuple[int, float]] = []
        self.reads = 0
        self.taken = 0.0
        self.released = threading.Event()

    def __call__(self, name: str, backend: int) -> Camera:
        assert backend == cv2.CAP_V4L2
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self._opened

    def set(self, number: int, value: float) -> bool:
        assert isinstance(value, (int, float))  # OpenCV takes nothing else
        self.asked.append((number, value))
        return True

    def get(self, number: int) -> float:
        if number == cv2.CAP_PROP_POS_MSEC:
            return self.taken * 1000
        return self.given.get(number, dict(self.asked).get(number, 0.0))

    def read(self) -> Read:
        self.reads += 1
        return self._act(self.reads - 1)

    def release(self) -> None:
        self.released.set()


def picture(value: int, width: int = 64, height: int = 48) -> Read:
    """``value`` is in the first two channels."""
    sleep(0.01)
    codes = np.zeros((height, width, 3), np.uint8)
    codes[..., :2] = value % 256, value // 256
    return True, codes


def number(frame: Frame) -> int:
    """What was given to ``picture``."""
    low, high = frame.planes[0][0, 0, :2]
    return int(low) + 256 * int(high)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "video0"
    path.touch()
    return path


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch, device: Path) -> Iterator[Callable[..., tuple[CameraSource, Camera]]]:
    """Makes a source whose camera is a stand-in, and closes it."""
    made: list[tuple[CameraSource, Camera]] = []

    def make(act: Callable[[int], Read], timeouts: Timeouts = PATIENT, **arguments: Any) -> tuple[CameraSource, Camera]:
        camera = Camera(act, arguments.pop("opened", True), arguments.pop("given", None))
        monkeypatch.setattr(cv2, "VideoCapture", camera)
        made.append((CameraSource(device, timeouts, **arguments), camera))
        return made[-1]

    yield make
    for source, camera in made:
        source.close()
        source.close()
        assert camera.released.wait(60)


def take(source: CameraSource, frames: int) -> list[Frame]:
    got: list[Frame] = []
    while len(got) < frames:
        frame = source.read()
        if frame is not None:
            got.append(frame)
    return got


def test_frames_come_with_growing_times_and_only_the_newest(plug: Any) -> None:
    source, camera = plug(picture)
    source.open()
    frames = take(source, 5)
    assert {(f.width, f.height, f.format, f.color.range) for f in frames} == {(64, 48, PixelFormat.BGR24, Range.FULL)}
    assert all(a.seconds < b.seconds for a, b in pairwise(frames))
    wait_for(lambda: camera.reads > number(frames[-1]) + 20)
    begun = camera.reads  # the last of them is still under way
    assert number(take(source, 1)[0]) >= begun - 2


def test_frames_that_nobody_reads_in_time_are_counted(plug: Any) -> None:
    """Every one that was taken was read or counted, or is the newest."""
    source, camera = plug(lambda n: picture(n) if n < 60 else (sleep(0.01), (False, None))[1])
    source.open()
    got = 0
    while camera.reads < 61:
        wait_for(lambda enough=camera.reads + 4: camera.reads >= enough)
        got += source.read() is not None
    got += source.read() is not None
    assert 0 < got <= 20 and got + source.dropped == 60


@pytest.mark.parametrize(("lag", "plausible"), [(0.08, True), (1000.0, False), (-500.0, False)])
def test_capture_time_is_the_drivers_where_it_is_plausible(
    plug: Any, monkeypatch: pytest.MonkeyPatch, lag: float, plausible: bool
) -> None:
    monkeypatch.setattr(module, "_OLDEST", 100.0)  # 2 s are less than a busy machine may lose after a read
    returned: list[float] = []

    def act(n: int) -> Read:
        found = picture(n)
        returned.append(monotonic())
        camera.taken = returned[-1] - lag
        return found

    source, camera = plug(act)
    source.open()
    frame = take(source, 2)[1]
    captured, at = frame.info[CAPTURED], returned[number(frame)]
    if plausible:
        assert captured == pytest.approx(at - lag, abs=1e-6)
    else:
        assert at <= captured <= monotonic(), "when it was read"


def test_what_the_driver_gives_instead_is_told(plug: Any, caplog: pytest.LogCaptureFixture) -> None:
    given = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV"))}
    source, camera = plug(picture, given=given, size=(1280, 720), rate=Fraction(30), fourcc="MJPG")
    with caplog.at_level(logging.WARNING, "crispstream.live"):
        source.open()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "format YUYV instead of MJPG" in told[0] and "width 640 instead of 1280" in told[1]
    assert [number for number, _ in camera.asked] == [
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FRAME_WIDTH,
        cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_FPS,
        cv2.CAP_PROP_BUFFERSIZE,
    ]
    assert dict(camera.asked)[cv2.CAP_PROP_BUFFERSIZE] == 2, "one is filled while the other one is decoded"


def test_a_camera_that_freezes_is_noticed_though_its_driver_does_not_return(plug: Any) -> None:
    frozen = threading.Event()

    def act(n: int) -> Read:
        if n >= 3:
            frozen.wait(120)
        return picture(n)

    source, camera = plug(act, SHORT)
    source.open()
    with pytest.raises(InputError, match=r"gave no frame for 0\.5 s"):
        while True:
            source.read()
    source.close()  # which does not wait for it either
    assert camera.reads <= 4 and not frozen.is_set()
    assert not camera.released.is_set()  # nobody may release what another thread is in
    frozen.set()
    assert camera.released.wait(60)


def test_a_camera_that_never_begins_is_given_up_and_waited_for(plug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    source, first = plug(lambda n: (never.wait(120), (False, None))[1], Timeouts(open=0.5, read=5))
    with pytest.raises(InputError, match=r"gave no frame for 0\.5 s"):
        source.open()
    source.close()
    owner, waits = module._owners[source.name], list[float]()
    join = owner.join
    monkeypatch.setattr(owner, "join", lambda seconds: (waits.append(seconds), join(0.01))[1])
    source, second = plug(picture)
    with pytest.raises(HangingError, match="hangs in its driver"):
        source.open()
    assert waits == [PATIENT.open / 2], "the other half is for the first frame"
    assert not second.reads
    never.set()
    assert first.released.wait(60)
    join(60)
    source.open()
    take(source, 1)


def test_frames_that_cannot_be_decoded_are_passed_over(plug: Any, caplog: pytest.LogCaptureFixture) -> None:
    source, _ = plug(lambda n: (False, None) if n % 2 else picture(n))
    source.open()
    take(source, 4)
    assert source.damaged >= 2
    assert sum("passed over" in record.getMessage() for record in caplog.records) == 1


def test_nothing_but_garbage_is_an_error_and_keeps_no_processor_busy(plug: Any) -> None:
    source, camera = plug(lambda n: picture(n) if n == 0 else (False, None), SHORT)
    begin = monotonic()
    source.open()
    with pytest.raises(InputError, match="gave no frame"):
        while True:
            source.read()
    reads = camera.reads
    assert reads <= (monotonic() - begin) / 0.02 + 3, "it would be thousands"


def test_another_size_is_another_frame(plug: Any) -> None:
    change = threading.Event()
    source, _ = plug(lambda n: picture(n, *((32, 24) if change.is_set() else (64, 48))))
    source.open()
    assert {(frame.width, frame.height) for frame in take(source, 3)} == {(64, 48)}
    change.set()
    wait_for(lambda: [(frame.width, frame.height) for frame in take(source, 1)] == [(32, 24)])


def test_a_camera_that_is_unplugged_says_so(plug: Any, device: Path) -> None:
    source, _ = plug(lambda n: picture(n) if device.exists() else (False, None))
    source.open()
    device.unlink()
    with pytest.raises(InputError, match="was unplugged") as caught:
        while True:
            source.read()
    assert not isinstance(caught.value, EndOfSource)


@pytest.mark.parametrize(
    ("error", "told"),
    [(cv2.error("OpenCV: something\nin many lines"), "in many lines"), (MemoryError(), "MemoryError")],
)
def test_an_error_of_opencv_is_an_input_error(plug: Any, error: Exception, told: str) -> None:
    def act(n: int) -> Read:
        raise error

    source, _ = plug(act)
    with pytest.raises(InputError, match=f"failed: {told}$"):
        source.open()


def test_what_opencv_does_not_open_is_in_use(plug: Any) -> None:
    source, _ = plug(picture, opened=False)
    with pytest.raises(InputError, match="is in use or is no camera") as caught:
        source.open()
    assert "fuser -v" in caught.value.hint


def test_a_missing_device_and_a_forbidden_one_have_their_cause(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no camera /dev/video987") as missing:
        CameraSource(987).open()
    assert missing.value.hint.startswith("cameras here: ")

    def fail(error: OSError) -> Callable[..., int]:
        def opening(*_: object, **__: object) -> int:
            raise error

        return opening

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail(PermissionError(13, "Permission denied")))
        with pytest.raises(InputError, match="no permission") as forbidden:
            CameraSource(device).open()
        assert "usermod -aG video" in forbidden.value.hint
        patch.setattr(os, "open", fail(OSError(16, "Device or resource busy")))
        with pytest.raises(InputError, match="in use by another program"):
            CameraSource(device).open()


def test_a_file_that_is_no_camera_is_refused_by_the_real_opencv(device: Path) -> None:
    source = CameraSource(device, PATIENT)
    with pytest.raises(InputError, match="is in use or is no camera"):
        source.open()
    source.close()


def test_a_format_of_other_than_four_letters_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'JPEG2' is no camera format"):
        CameraSource(0, fourcc="JPEG2")


def test_opencv_that_is_missing_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match="cameras need OpenCV") as caught:
        CameraSource(0)
    assert caught.value.hint == "pip install 'crispstream[live]'"
