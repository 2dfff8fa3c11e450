# SPDX-License-Identifier: Apache-2.0
"""A live stream in a window on the desktop."""

from __future__ import annotations

import os
import re

from av.video.reformatter import VideoReformatter

from crispstream.convert import converted
from crispstream.errors import UsageError
from crispstream.frame import PixelFormat
from crispstream.live.protocol import Shot
from crispstream.orientation import upright
from crispstream.sinks.child import Child, ChildSink

# Seconds: Qt starts slowly on small machines; a window that takes nothing for so long hangs.
_OPENING, _PATIENCE = 20.0, 10.0
_HOW = "pip uninstall opencv-python-headless && pip install opencv-python, and on Debian apt install libgl1"


class WindowSink(ChildSink):
    """Shows what comes out of the engine in a window of OpenCV until it is closed, or Esc or q is pressed.

    The window lives in the main thread of a process of its own: GUI libraries want that thread, and they end the
    process when the display goes away. Raises UsageError where OpenCV has no windows or there is no display.
    """

    name = "window"

    def __init__(self, title: str = "CrispStream") -> None:
        require_windows()
        self._title = title
        self._reformatter = VideoReformatter()

    def write(self, shot: Shot) -> None:
        """Show one frame. Raises OutputError, and ClosedPipeError once the window is closed."""
        frame = converted(upright(shot.after), PixelFormat.BGR24, self._reformatter)
        if self._child is None:
            about = {"title": self._title, "width": frame.width, "height": frame.height}
            self._child = Child("crispstream.sinks.viewer", about, f"the window on {_display()}", _OPENING, _PATIENCE)
        self._child.send(frame, 0)


def require_windows() -> None:
    """Raise UsageError where no window can be opened, with what to do."""
    if not _display():
        raise UsageError("there is no display for a window", "use --preview and a browser, or set DISPLAY")
    try:
        import cv2
    except ImportError as error:
        raise UsageError(f"a window needs OpenCV ({error})", _HOW) from error
    gui = re.search(r"^ *GUI: *(\w+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is not None and gui[1] == "NONE":
        raise UsageError("this OpenCV has no windows", _HOW)


def _display() -> str:
    return os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or ""
