# SPDX-License-Identifier: Apache-2.0
"""Pipelines of the installed GStreamer as sources. PyGObject is Debian's: it fits its own Python only."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from rtsp_server import RtspServer, missing_package
from stand_ins import wait_for

from crispstream.errors import InputError, UsageError
from crispstream.frame import ChromaSiting, Frame, Matrix, PixelFormat, Range
from crispstream.live.protocol import CAPTURED, EndOfSource, Timeouts
from crispstream.sources import gstreamer
from crispstream.sources.gstreamer import GStreamerSource, Layout
from crispstream.tags import VideoTags

DEBIAN = Path("/usr/lib/python3/dist-packages/gi")
PATIENT = Timeouts(open=120, read=60)
"""For pipelines that give frames: a busy machine may let one wait."""
LIVE = "videotestsrc is-live=true"


@pytest.fixture(scope="module", autouse=True)
def gi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PyGObject, and nothing else of Debian's packages, can be imported."""
    folder = tmp_path_factory.mktemp("gi")
    if DEBIAN.exists():
        (folder / "gi").symlink_to(DEBIAN)
    sys.path.append(str(folder))
    try:
        gstreamer._gstreamer()
    except UsageError as error:
        pytest.skip(f"needs python3-gi, python3-gst-1.0 and gir1.2-gst-plugins-base-1.0 for this Python: {error}")
    finally:
        sys.path.remove(str(folder))
    yield


def frames_of(pipeline: str, count: int, timeouts: Timeouts = PATIENT) -> list[Frame]:
    source = GStreamerSource(pipeline, timeouts)
    try:
        source.open()
        got: list[Frame] = []
        while len(got) < count:
            frame = source.read()
            if frame is not None:
                got.append(frame)
        return got
    finally:
        source.close()


def failure(pipeline: str, timeouts: Timeouts = PATIENT) -> tuple[Exception, float]:
    """What the pipeline comes to, and how long its last frame was ago."""
    source = GStreamerSource(pipeline, timeouts)
    last = monotonic()
    try:
        with pytest.raises((InputError, UsageError)) as caught:
            source.open()
            while True:
                if source.read() is not None:
                    last = monotonic()
        return caught.value, monotonic() - last
    finally:
        source.close()


@pytest.mark.parametrize("name", ["BGR", "RGB", "NV12", "I420"])
def test_every_format_at_an_odd_size_shows_the_same_picture(name: str) -> None:
    """Rows of such a width are padded to four bytes in GStreamer's memory."""
    caps = f"video/x-raw,format={name},width=101,height=67,framerate=25/1,colorimetry=bt709"
    if name in ("BGR", "RGB"):
        caps = caps.replace(",colorimetry=bt709", "")
    (frame,) = frames_of(f"{LIVE} pattern=red ! {caps}", 1)
    format_ = gstreamer._FORMATS[name]
    assert (frame.width, frame.height, frame.format) == (101, 67, format_)
    samples = [s for plane in frame.planes for s in plane.reshape(-1, plane.shape[2] if plane.ndim == 3 else 1).T]
    expected = {"BGR": [0, 0, 255], "RGB": [255, 0, 0]}.get(name, [63, 102, 240])  # BT.709, limited range
    for sample, value in zip(samples, expected, strict=True):
        assert sample.min() == sample.max() == pytest.approx(value, abs=1.5)
    if format_.is_yuv:
        assert frame.color.matrix is Matrix.BT709 and frame.color.range is Range.LIMITED
        assert VideoTags.of(frame).primaries == 1
    else:
        assert frame.color.range is Range.FULL


def test_full_range_and_siting_arrive() -> None:
    caps = "video/x-raw,format=I420,width=32,height=32,framerate=25/1,colorimetry=1:4:0:0,chroma-site=jpeg"
    (frame,) = frames_of(f"{LIVE} ! {caps}", 1)
    assert (frame.color.matrix, frame.color.range) == (Matrix.BT601, Range.FULL)
    assert frame.color.siting is ChromaSiting.CENTER


def test_another_format_is_converted() -> None:
    (frame,) = frames_of(f"{LIVE} ! video/x-raw,format=GRAY16_LE,width=32,height=32,framerate=25/1", 1)
    assert frame.format in gstreamer._FORMATS.values()


def test_strides_and_offsets_of_the_buffer_are_obeyed() -> None:
    data = np.arange(200, dtype=np.uint8)
    layout = Layout(PixelFormat.NV12, 5, 3, (8, 8), (0, 24), VideoTags())
    luma, chroma = layout.planes(data, [10, 12], [4, 60])
    assert luma.shape == (3, 5) and luma[1, 2] == 4 + 10 + 2
    assert chroma.shape == (2, 3, 2) and chroma[1, 2, 1] == 60 + 12 + 5
    assert np.shares_memory(luma, data) and np.shares_memory(chroma, data)


def test_times_grow_and_capture_is_by_the_pipelines_clock() -> None:
    caps = "video/x-raw,width=64,height=48,framerate=50/1"
    # The identity holds every buffer back: the picture is older than its arrival.
    source = GStreamerSource(f"{LIVE} ! {caps} ! identity sleep-time=5000 ! queue", PATIENT)
    source.open()
    ages, seconds = [], []
    while len(ages) < 20:
        frame = source.read()
        if frame is not None:
            ages.append(monotonic() - frame.info[CAPTURED])
            seconds.append(frame.seconds)
    source.close()
    assert 0.005 <= float(np.median(ages[3:])) < 2
    assert all(b > a for a, b in pairwise(seconds))
    assert seconds[-1] - seconds[-2] >= Fraction(1, 51)


def next_of(source: GStreamerSource) -> Frame:
    while (frame := source.read()) is None:
        pass
    return frame


def test_only_the_newest_frame_waits() -> None:
    source = GStreamerSource(f"{LIVE} ! video/x-raw,width=64,height=48,framerate=100/1", PATIENT)
    source.open()
    first = next_of(source)
    before = source.dropped
    wait_for(lambda: source.dropped >= before + 30)
    dropped = source.dropped - before
    assert next_of(source).seconds - first.seconds > Fraction(dropped, 100)
    source.close()


def test_a_pipeline_that_is_not_live_runs_in_real_time_to_its_end() -> None:
    pipeline = "videotestsrc num-buffers=10 ! video/x-raw,width=64,height=48,framerate=20/1"
    source = GStreamerSource(pipeline, PATIENT)
    begin, count = monotonic(), 0
    source.open()
    with pytest.raises(EndOfSource, match="has ended"):
        while True:
            count += source.read() is not None
    assert count > 0 and count + source.dropped == 10 and monotonic() - begin > 0.4
    source.close()


def test_frames_that_nobody_reads_in_time_are_counted() -> None:
    count = 40
    text = f"{LIVE} num-buffers={count} ! video/x-raw,format=I420,width=64,height=48,framerate=50/1"
    source = GStreamerSource(text, PATIENT)
    source.open()
    wait_for(lambda: source.dropped >= 20)
    read = 0
    with pytest.raises(EndOfSource):
        while True:
            read += source.read() is not None
    assert 0 < read <= 20 and read + source.dropped == count
    source.close()


def test_an_appsink_of_ones_own() -> None:
    text = f"{LIVE} ! video/x-raw,format=RGB,width=64,height=48,framerate=25/1 ! appsink name=crispstream"
    assert frames_of(text, 2)[1].format is PixelFormat.RGB24
    error, _ = failure(text.replace("format=RGB", "format=GRAY8"))
    assert isinstance(error, UsageError) and "leave the pipeline's end open" in error.hint
    error, _ = failure(f"{LIVE} ! fakesink name=crispstream")
    assert isinstance(error, UsageError) and "no appsink" in str(error)


def test_another_size_in_mid_stream() -> None:
    part = "videotestsrc num-buffers=3 ! video/x-raw,format=I420,framerate=25/1,width={},height=48 ! c."
    source = Unhurried(f"concat name=c {part.format(64)} {part.format(101)} c.", PATIENT)
    source.open()
    assert [next_of(source).width for _ in range(6)] == [64] * 3 + [101] * 3
    source.close()


class Unhurried(GStreamerSource):
    """Its pipeline waits until a frame was read before it gives the next one: none is dropped."""

    def _keep(self, sink: Any) -> Any:
        wait_for(lambda: self._newest is None)
        return super()._keep(sink)


def test_what_is_no_pipeline_is_a_usage_error() -> None:
    for text in ("nosuchelement", "videotestsrc ! ! x", "videotestsrc nosuch=1"):
        error, _ = failure(text)
        assert isinstance(error, UsageError) and str(error).startswith("no pipeline: ")


def test_silence_is_noticed() -> None:
    """A sender that never begins, and one that stops."""
    error, _ = failure(f"{LIVE} ! valve drop=true", Timeouts(open=1, read=60))
    assert str(error).endswith("gave no frame for 1 s")
    source = GStreamerSource(f"{LIVE} ! valve name=v", Timeouts(open=120, read=0.5))
    source.open()
    source._pipeline.get_by_name("v").set_property("drop", True)
    begin = monotonic()
    with pytest.raises(InputError, match=r"gave no frame for 0\.5 s"):
        while True:
            source.read()
    assert monotonic() - begin < 30
    source.close()
    source.close()


def test_an_error_on_the_bus_is_told() -> None:
    error, _ = failure("filesrc location=/nonexistent/film ! rawvideoparse width=64 height=48 format=i420")
    assert "film" in str(error) and not isinstance(error, (EndOfSource, UsageError))


def test_messages_of_other_elements_do_not_pile_up() -> None:
    chatty = "audiotestsrc is-live=true ! level interval=10000000 ! fakesink videotestsrc is-live=true"
    source = GStreamerSource(f"{chatty} ! video/x-raw,format=I420,width=64,height=48,framerate=50/1", Timeouts())
    source.open()
    try:
        for _ in range(50):
            next_of(source)
        begin = monotonic()
        next_of(source)
        waiting = 0
        while source._bus.pop() is not None:
            waiting += 1
        seconds = monotonic() - begin
    finally:
        source.close()
    assert waiting < 10 + 100 * seconds, "there was a hundred for each second of the fifty frames"


def test_an_error_beside_the_frames_is_told() -> None:
    beside = "filesrc location=/dev/zero num-buffers=30 ! identity error-after=20 ! fakesink sync=false"
    error, _ = failure(f"{beside} videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48")
    assert not isinstance(error, EndOfSource)


def test_many_frames_and_many_openings_leave_no_memory() -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    pipeline = "videotestsrc is-live=true pattern=black ! video/x-raw,format=I420,width=640,height=360,framerate=200/1"

    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    frames_of(pipeline, 200)  # the allocator may keep what it once had
    threads, grown = tasks(), list[int]()
    while not grown or (grown[-1] >= 20e6 and len(grown) < 3):  # what leaks does so every time
        before = resident()
        frames_of(pipeline, 200)  # 69 MB of pictures
        for _ in range(5):
            frames_of(pipeline, 2)
        grown.append(resident() - before)
    assert min(grown) < 20e6
    wait_for(lambda: tasks() <= threads + 2)


def test_pygobject_that_is_missing_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(UsageError, match="GStreamer pipelines need PyGObject") as caught:
        GStreamerSource(LIVE)
    assert "apt install python3-gi" in caught.value.hint


@pytest.mark.skipif(missing_package() is not None, reason=f"needs the Debian package {missing_package()}")
def test_an_rtsp_server_that_dies_is_no_end_of_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    if gstreamer._gstreamer()[0].ElementFactory.find("openh264dec") is None:
        pytest.skip("needs the Debian package gstreamer1.0-plugins-bad")
    with RtspServer(user="bob:s3cr3t") as server:
        decoder = "rtph264depay ! h264parse ! openh264dec"
        source = GStreamerSource(f"rtspsrc location={server.url} latency=0 protocols=tcp ! {decoder}", PATIENT)
        source.open()
        ages = []
        for _ in range(5):
            frame = next_of(source)
            ages.append(monotonic() - frame.info[CAPTURED])
        assert (frame.width, frame.height) == (320, 180)
        assert min(ages) >= 0 and float(np.median(ages)) < 2
        server.kill()
        with pytest.raises(InputError) as caught:
            while True:
                source.read()
        source.close()
    assert not isinstance(caught.value, EndOfSource)
    told = f"{source.name} {caught.value} {caplog.text}"
    assert "s3cr3t" not in told and "bob" not in told
