# SPDX-License-Identifier: Apache-2.0
"""A V4L2 camera as a live source, through OpenCV."""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from fractions import Fraction
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from crispstream.errors import InputError, UsageError
from crispstream.frame import Frame
from crispstream.live.protocol import CAPTURED, POLL_SECONDS, HangingError, Timeouts

_TIME_BASE = Fraction(1, 1_000_000)
_OLDEST = 2.0
"""Seconds. A driver's time further in the past is of another clock."""
_PAUSE = 0.02
_BUFFERS = 2
"""Of the driver. With a single one it has none to fill while OpenCV decodes what it filled last, and a frame is missed;
more add nothing: they are emptied as fast as they fill."""
# How OpenCV is told how long the driver may be silent, in whole seconds; it looks once a process.
_SELECT_TIMEOUT = "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"

_logger = logging.getLogger("crispstream.live")
_owners: dict[str, threading.Thread] = {}
"""The last thread of each camera: a second one beside it would find it busy, and hang as well where it hangs."""


class CameraSource:
    """BGR24 frames of ``device``: an index or a path such as /dev/video0 or /dev/v4l/by-id/...

    ``size`` (width, height), ``rate`` in frames a second and ``fourcc`` (MJPG, YUYV, ...) are asked of the driver; what
    it gives instead is logged. A thread of its own owns the camera, because nobody else may wait for a driver that
    hangs; it keeps the newest frame only. CAPTURED is the driver's time where it is one of this clock.
    """

    def __init__(
        self,
        device: int | str | Path,
        timeouts: Timeouts | None = None,
        size: tuple[int, int] | None = None,
        rate: float | Fraction | None = None,
        fourcc: str | None = None,
    ) -> None:
        if fourcc is not None and (len(fourcc) != 4 or not fourcc.isascii()):
            raise UsageError(f"'{fourcc}' is no camera format", "four letters: MJPG, YUYV, ...")
        self._cv2 = _opencv()
        self._path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
        self.name = str(self._path)
        self._timeouts = timeouts or Timeouts()
        self._size, self._rate, self._fourcc = size, rate, fourcc
        self.dropped = self.damaged = 0
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._heard = 0.0
        self._failure: InputError | None = None
        self._closed = False

    def open(self) -> None:
        """Open the camera and wait for its first frame. Raises InputError, HangingError where the driver holds the
        thread of the connection before this one."""
        self._check_access()
        os.environ.setdefault(_SELECT_TIMEOUT, str(max(1, math.ceil(self._timeouts.read))))
        deadline = monotonic() + self._timeouts.open
        before = _owners.get(self.name)
        if before is not None:  # it lets go of the camera when the driver lets go of it
            before.join(self._timeouts.open / 2)  # the other half is for the first frame
            if before.is_alive():
                raise HangingError(f"{self.name} hangs in its driver", "unplug the camera and plug it in again")
        thread = _owners[self.name] = threading.Thread(target=self._run, name="crispstream-camera", daemon=True)
        thread.start()
        with self._changed:
            while self._newest is None and self._failure is None:
                if not self._changed.wait(max(0.0, deadline - monotonic())):
                    raise self._silence(self._timeouts.open)
            if self._failure is not None:
                raise self._failure

    def read(self) -> Frame | None:
        """The newest frame that was not given out yet; None where there is none. Raises InputError."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._failure is not None, POLL_SECONDS)
            frame, self._newest = self._newest, None
            if frame is not None:
                return frame
            if self._failure is not None:
                raise self._failure
            if monotonic() - self._heard > self._timeouts.read:
                raise self._silence(self._timeouts.read)
        return None

    def close(self) -> None:
        """Let the camera's thread release it, as soon as the driver lets go of the thread. Idempotent."""
        self._closed = True

    def _run(self) -> None:
        """Life of the thread: the camera from its opening to its release."""
        capture: Any = None
        try:
            capture = self._cv2.VideoCapture(self.name, self._cv2.CAP_V4L2)
            if not capture.isOpened():
                raise InputError(
                    f"{self.name} is in use or is no camera", f"who uses it: fuser -v {self.name}; others: {_cameras()}"
                )
            self._configure(capture)
            while not self._closed:
                self._take(capture)
        except InputError as error:
            self._fail(error)
        except Exception as error:  # OpenCV's own, and whatever a driver leads to
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self._fail(InputError(f"{self.name} failed: {reason}"))
        finally:
            if capture is not None:
                capture.release()

    def _take(self, capture: Any) -> None:
        """One frame, if there is one."""
        good, picture = capture.read()
        now = monotonic()
        if not good or picture is None or picture.ndim != 3:
            if not self._path.exists():
                raise InputError(f"{self.name} was unplugged")
            if not self.damaged:
                _logger.warning("%s: damaged or missing frames are passed over", self.name)
            self.damaged += 1
            sleep(_PAUSE)  # a driver that fails at once would keep a processor busy
            return
        taken = capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        captured = taken if 0 <= now - taken <= _OLDEST else now
        frame = Frame.from_array(picture)
        frame = Frame(
            frame.planes, frame.format, frame.color, round(captured / _TIME_BASE), _TIME_BASE, info={CAPTURED: captured}
        )
        with self._changed:
            self.dropped += self._newest is not None
            self._newest, self._heard = frame, now
            self._changed.notify()

    def _configure(self, capture: Any) -> None:
        """Ask for what was asked for. The format comes first, because sizes and rates depend on it."""
        cv2 = self._cv2
        wanted: dict[str, tuple[int, float]] = {}
        if self._fourcc is not None:
            wanted["format"] = (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        if self._size is not None:
            wanted["width"] = (cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
            wanted["height"] = (cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        if self._rate is not None:
            wanted["rate"] = (cv2.CAP_PROP_FPS, float(self._rate))
        for number, value in wanted.values():
            capture.set(number, value)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
        for what, (number, value) in wanted.items():
            got = capture.get(number)
            if abs(got - value) > 0.01 * value:
                told = _letters(got) if what == "format" else f"{got:g}"
                asked = self._fourcc if what == "format" else f"{value:g}"
                _logger.warning("%s: %s %s instead of %s (v4l2-ctl --list-formats-ext)", self.name, what, told, asked)

    def _check_access(self) -> None:
        """Raise InputError for a device that is missing, forbidden or busy, before OpenCV only says no."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_NONBLOCK))
        except FileNotFoundError:
            raise InputError(f"there is no camera {self.name}", f"cameras here: {_cameras()}") from None
        except PermissionError:
            raise InputError(
                f"no permission to use {self.name}", "sudo usermod -aG video $USER, then log in again"
            ) from None
        except OSError as error:
            busy = error.errno == errno.EBUSY
            hint = f"who uses it: fuser -v {self.name}" if busy else ""
            reason = "in use by another program" if busy else f"no camera that can be used ({error.strerror})"
            raise InputError(f"{self.name} is {reason}", hint) from None

    def _fail(self, error: InputError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify()

    def _silence(self, seconds: float) -> InputError:
        return InputError(f"{self.name} gave no frame for {seconds:g} s", "unplug the camera and plug it in again")


def _cameras() -> str:
    """The video devices of this machine, for a hint."""
    return ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"


def _letters(code: float) -> str:
    return "".join(chr((int(code) >> shift) & 0x7F) for shift in (0, 8, 16, 24)).strip("\0") or "none"


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(f"cameras need OpenCV ({error})", "pip install 'crispstream[live]'") from error
    return cv2
