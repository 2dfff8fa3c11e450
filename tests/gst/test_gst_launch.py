# SPDX-License-Identifier: Apache-2.0
"""The element ``crispstream`` in pipelines of ``gst-launch-1.0``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from launch import frames, launch

from crispstream import Deblurrer
from crispstream.frame import ChromaSiting, ColorSpec, Matrix, PixelFormat, Range
from crispstream.sources.video import VideoSource

YUV = ColorSpec(Matrix.BT601, Range.LIMITED, ChromaSiting.CENTER)
"""What GStreamer takes YUV of fewer than 577 rows for where the caps do not say."""
RGB = ColorSpec(Matrix.BT709, Range.FULL)
FORMATS = {
    "BGR": (PixelFormat.BGR24, RGB),
    "RGB": (PixelFormat.RGB24, RGB),
    "NV12": (PixelFormat.NV12, YUV),
    "I420": (PixelFormat.I420, YUV),
}
SIZES = ((96, 64), (65, 33), (1, 3))
COUNT = 5
FAILED = 255
"""What gst-launch-1.0 exits with where the pipeline does not start."""


@pytest.mark.parametrize("name", FORMATS)
def test_the_stream_of_a_deblurrer_bit_for_bit(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    """Three sizes in one process: three elements, each with its own engine."""
    source = f"videotestsrc num-buffers={COUNT} pattern=ball animation-mode=frames ! video/x-raw,format={name}"
    chains = []
    for width, height in SIZES:
        start, end = f"{source},width={width},height={height}", f"filesink location={tmp_path}/"
        chains += [f"{start} ! {end}{width}.in", f"{start} ! crispstream threads=1 ! {end}{width}.out"]
    assert launch(environment, " ".join(chains)) == ""
    pixel_format, color = FORMATS[name]
    for width, height in SIZES:
        before, after = (frames(tmp_path / f"{width}.{e}", pixel_format, width, height, color) for e in ("in", "out"))
        assert len(after) == COUNT
        with Deblurrer(threads=1) as deblurrer:
            stream = deblurrer.open_stream()
            for given, got in zip(before, after, strict=True):
                for plane, mine in zip(got.planes, stream.process(given).planes, strict=True):
                    np.testing.assert_array_equal(plane, mine)
        if width > 1:
            assert any((a.planes[0] != b.planes[0]).any() for a, b in zip(before, after, strict=True))


def test_strength_0_is_the_identity(environment: dict[str, str], tmp_path: Path) -> None:
    source = "videotestsrc num-buffers=4 pattern=ball ! video/x-raw,format=NV12,width=96,height=64"
    sink = f"filesink location={tmp_path}"
    launch(environment, f"{source} ! {sink}/in {source} ! crispstream strength=0 ! {sink}/out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ("preset=huge", "unknown preset 'huge' (known presets: "),
        ("device=tpu", "unknown device 'tpu' (auto, cpu, cuda or cuda:N)"),
        ("engine=magic", "unknown engine backend 'magic' (auto, "),
    ],
)
def test_a_wrong_property_is_an_error_of_the_element(environment: dict[str, str], properties: str, words: str) -> None:
    said = launch(environment, f"videotestsrc ! crispstream {properties} ! fakesink", expected=FAILED)
    errors = [line for line in said.splitlines() if line.startswith("ERROR: from element")]
    assert len(errors) == 1 and words in errors[0]
    assert "Traceback" not in said


def test_formats_that_it_does_not_take_are_converted_upstream(environment: dict[str, str]) -> None:
    """And a filter says so where nothing converts: the element asks for what it can."""
    refused = "videotestsrc num-buffers=1 ! video/x-raw,format=YUY2 ! crispstream ! fakesink"
    assert "could not link" in launch(environment, refused, expected=1)
    converted = "videotestsrc num-buffers=1 ! video/x-raw,format=YUY2 ! videoconvert ! crispstream ! fakesink"
    assert launch(environment, converted) == ""


def test_without_the_package_it_says_what_to_set(environment: dict[str, str]) -> None:
    bare = {**environment, "PYTHONPATH": ""}
    shown = subprocess.run(["gst-inspect-1.0", "crispstream"], env=bare, capture_output=True, text=True, check=True)
    assert "strength" in shown.stdout
    said = launch(bare, "videotestsrc ! crispstream ! fakesink", expected=FAILED)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"GStreamer's Python {version} cannot import crispstream" in said and "set PYTHONPATH to" in said


def test_through_h264_in_matroska_and_back(environment: dict[str, str], tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    source = "videotestsrc num-buffers=20 pattern=ball ! video/x-raw,width=96,height=64,framerate=20/1"
    encoder = "x264enc speed-preset=ultrafast ! matroskamux"
    launch(environment, f"{source} ! crispstream threads=1 ! {encoder} ! filesink location={film}")
    back = f"filesrc location={film} ! matroskademux ! h264parse ! openh264dec ! crispstream threads=1"
    launch(environment, f"{back} ! {encoder} ! filesink location={tmp_path}/back.mkv")
    for path in (film, tmp_path / "back.mkv"):
        decoded = VideoSource(path)
        times = [frame.seconds for frame in decoded]
        assert (times, decoded.size) == ([Fraction(i, 20) for i in range(20)], (96, 64))


def test_ctrl_c_ends_the_file(environment: dict[str, str], tmp_path: Path) -> None:
    """With ``-e`` the tool sends EOS: its handler is still in place after the engine was imported."""
    film = tmp_path / "film.mkv"
    source = "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=10/1"
    pipeline = f"{source} ! crispstream threads=1 ! x264enc tune=zerolatency ! matroskamux ! filesink location={film}"
    process = subprocess.Popen(["gst-launch-1.0", "-e", *pipeline.split()], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not film.exists() or film.stat().st_size < 3000:
        assert process.poll() is None and time.monotonic() < deadline, "nothing is written"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert len(list(VideoSource(film))) > 2


def test_beside_another_element_in_python(environment: dict[str, str], tmp_path: Path) -> None:
    """GStreamer has one loader for all of them; a neighbour is found and does not disturb."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "neighbour.py").write_text(
        "import gi\n"
        "gi.require_version('GstBase', '1.0')\n"
        "from gi.repository import GObject, Gst, GstBase\n"
        "pads = (('sink', Gst.PadDirection.SINK), ('src', Gst.PadDirection.SRC))\n"
        "class Neighbour(GstBase.BaseTransform):\n"
        "    __gstmetadata__ = ('Neighbour', 'Filter', 'does nothing', 'nobody')\n"
        "    __gsttemplates__ = tuple(Gst.PadTemplate.new(n, d, Gst.PadPresence.ALWAYS, Gst.Caps.new_any())"
        " for n, d in pads)\n"
        "    def do_transform_ip(self, buffer):\n"
        "        return Gst.FlowReturn.OK\n"
        "GObject.type_register(Neighbour)\n"
        "__gstelementfactory__ = ('neighbour', Gst.Rank.NONE, Neighbour)\n"
    )
    both = {
        **environment,
        "GST_PLUGIN_PATH": f"{environment['GST_PLUGIN_PATH']}:{tmp_path}",
        "GST_REGISTRY": str(tmp_path / "registry.bin"),
    }
    source = "videotestsrc num-buffers=3 ! video/x-raw,format=BGR,width=64,height=48"
    assert launch(both, f"{source} ! neighbour ! crispstream threads=1 ! neighbour ! fakesink") == ""
