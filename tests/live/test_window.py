# SPDX-License-Identifier: Apache-2.0
"""The window, over a stub of OpenCV that writes down what it is asked; a real one needs a display."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shots import children, descriptors, shot
from stand_ins import wait_for

from crispstream.errors import ClosedPipeError, OutputError, UsageError
from crispstream.sinks.window import WindowSink

_STUB = """
import json, os, threading, time
error = type("error", (Exception,), {})
WINDOW_NORMAL, WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL, WND_PROP_VISIBLE = 0, 0, 16, 4
ORDERS = json.load(open(FOLDER + "/orders"))
count = 0

def tell(*what):
    with open(FOLDER + "/told", "a") as file:
        file.write(json.dumps([threading.current_thread() is threading.main_thread(), os.getpid(), *what]) + "\\n")

def getBuildInformation(): return "  GUI:                           " + ORDERS.get("gui", "QT5") + "\\n"
def namedWindow(title, flags):
    tell("open", title)
    if "fail" in ORDERS: raise error(ORDERS["fail"])
    if "abort" in ORDERS: os.abort()
def resizeWindow(title, width, height): tell("size", width, height)
def imshow(title, picture):
    global count
    count += 1
    tell("show", list(picture.shape), int(picture[10, :, 0].argmax()) // 4)
    if count == ORDERS.get("hang"): time.sleep(60)
def waitKey(milliseconds):
    tell("wait")
    return ORDERS.get("key", -1) if count >= 3 else -1
def getWindowProperty(title, which):
    if count < 3 or "close" not in ORDERS: return 1.0
    if ORDERS["close"] == "Qt": raise error("NULL guiReceiver (please create a window)")
    return 0.0
def destroyAllWindows(): tell("end")
"""


class Stub:
    """A folder with a cv2 of our own; ``told`` is what was called, all of it in a main thread that is not ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.orders()
        (folder / "cv2.py").write_text(f"FOLDER = {str(folder)!r}\n" + _STUB)

    def orders(self, **orders: object) -> None:
        (self.folder / "orders").write_text(json.dumps(orders))

    def told(self, what: str) -> list[list[Any]]:
        path = self.folder / "told"
        said = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in said.rpartition("\n")[0].splitlines()]  # whole ones
        assert all(main and pid != os.getpid() for main, pid, *_ in lines)
        return [line[3:] for line in lines if line[2] == what]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """OpenCV with windows, and a display, as far as the sink can tell."""
    stub = Stub(tmp_path / "stub")
    monkeypatch.syspath_prepend(str(stub.folder))
    monkeypatch.setitem(sys.modules, "cv2", None)  # so that it is put back as it is now, or forgotten
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.setenv("DISPLAY", ":99")
    return stub


def until_closed(sink: WindowSink) -> None:
    for i in range(500):  # the process takes three or so before more has no room
        sink.write(shot(i))
        time.sleep(0.01)


def test_frames_are_shown_and_the_window_is_served_without_any(stub: Stub) -> None:
    before, files = children(), descriptors()
    sink = WindowSink("a title")
    assert not stub.told("open")
    for i in range(3):
        sink.write(shot(i))
    sink.write(shot(3, size=(33, 20)))
    wait_for(lambda: len(stub.told("show")) == 4)
    waits = len(stub.told("wait"))
    wait_for(lambda: len(stub.told("wait")) > waits + 5)
    sink.close()
    sink.abort()
    assert stub.told("open") == [["a title"]]
    assert stub.told("size") == [[64, 48]]
    assert stub.told("show") == [[[48, 64, 3], 0], [[48, 64, 3], 1], [[48, 64, 3], 2], [[20, 33, 3], 3]]
    assert stub.told("end") == [[]]
    wait_for(lambda: children() <= before and descriptors() <= files)


@pytest.mark.parametrize("how", [{"key": 27}, {"key": ord("q")}, {"close": "GTK"}, {"close": "Qt"}])
def test_the_user_closes_it(stub: Stub, how: dict[str, Any]) -> None:
    stub.orders(**how)
    sink = WindowSink()
    with pytest.raises(ClosedPipeError, match="the window was closed"):
        until_closed(sink)
    assert len(stub.told("show")) >= 3
    sink.abort()


def test_any_other_key_does_nothing(stub: Stub) -> None:
    stub.orders(key=ord("x"))
    sink = WindowSink()
    for i in range(20):
        sink.write(shot(i))
    sink.close()
    assert len(stub.told("show")) == 20


def test_a_display_that_cannot_be_used(stub: Stub) -> None:
    stub.orders(fail="OpenCV(5.0.0) window.cpp:1: error: no GTK\nmore\n")
    with pytest.raises(
        OutputError, match=r"cannot write the window on :99 \(OpenCV\(5.0.0\) window.cpp:1: error: no GTK\)$"
    ):
        WindowSink().write(shot(0))


def test_a_library_that_ends_its_process_does_not_end_this_one(stub: Stub) -> None:
    stub.orders(abort=True)
    with pytest.raises(OutputError, match="SIGABRT"):
        WindowSink().write(shot(0))


def test_a_display_that_goes_away(stub: Stub) -> None:
    before = children()
    sink = WindowSink()
    sink.write(shot(0))
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OutputError, match="SIGKILL"):
        until_closed(sink)
    sink.abort()
    again = WindowSink()
    again.write(shot(1))
    again.close()
    assert len(stub.told("end")) == 1


def test_a_window_that_hangs_is_given_up(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crispstream.sinks.window._PATIENCE", 0.5)
    stub.orders(hang=2)
    sink = WindowSink()
    begin = time.monotonic()
    with pytest.raises(OutputError, match="takes nothing any more"):
        for i in range(100):
            sink.write(shot(i, size=(640, 480)))
    sink.abort()
    assert time.monotonic() - begin < 50, "it hangs for a minute"


def test_what_is_missing_is_told_at_once(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.orders(gui="NONE")
    with pytest.raises(UsageError, match="this OpenCV has no windows") as caught:
        WindowSink()
    assert "pip install opencv-python" in caught.value.hint
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match="a window needs OpenCV"):
        WindowSink()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UsageError, match="no display") as caught:
        WindowSink()
    assert "--preview" in caught.value.hint
    assert not stub.told("open")
