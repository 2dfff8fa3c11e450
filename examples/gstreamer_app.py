# SPDX-License-Identifier: Apache-2.0
"""A GStreamer application: frames leave one pipeline by appsink and enter another one by appsrc, with their times.

    python examples/gstreamer_app.py "v4l2src" "x264enc tune=zerolatency ! matroskamux ! filesink location=out.mkv"
    python examples/gstreamer_app.py "videotestsrc num-buffers=100 pattern=ball" "autovideosink"

Needs: apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good. In a virtual environment of the
same Python, set PYTHONPATH=/usr/lib/python3/dist-packages.
"""

import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import gi
import numpy as np

import crispstream

gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstVideo  # noqa: E402

QUEUED = 2_000_000  # bytes that may wait for a slow sink


def ended(pipeline: Any, timeout: int = 0) -> bool:
    """Whether the pipeline has come to its end, within nanoseconds. Says what failed, where something did."""
    kinds = Gst.MessageType.EOS | Gst.MessageType.ERROR
    message = pipeline.get_bus().timed_pop_filtered(timeout, kinds)
    if message and message.type == Gst.MessageType.ERROR:
        sys.exit(message.parse_error()[0].message)
    return message is not None


def frames(pipeline: Any, source: Any) -> Iterator[crispstream.Frame]:
    """What arrives at the pipeline's appsink; ``source`` learns its caps. A buffer's rows may be padded."""
    sink = pipeline.get_by_name("out")
    while True:
        sample = sink.emit("try-pull-sample", Gst.SECOND // 4)
        if sample is None:
            if ended(pipeline):
                return
            continue
        buffer, caps = sample.get_buffer(), sample.get_caps()
        source.set_property("caps", caps)
        info = GstVideo.VideoInfo.new_from_caps(caps)
        rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(info.height, info.stride[0])
        pixels = rows[:, : 3 * info.width].reshape(info.height, info.width, 3)
        about = {"pts": buffer.pts, "time_base": Fraction(1, Gst.SECOND), "duration": buffer.duration}
        yield crispstream.Frame((pixels,), crispstream.PixelFormat.BGR24, **about)


def buffer_of(frame: crispstream.Frame) -> Any:
    """The frame as a buffer, rows padded to four bytes as GStreamer lays out BGR."""
    rows = frame.planes[0].reshape(frame.height, -1)
    buffer = Gst.Buffer.new_wrapped(np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes())
    buffer.pts, buffer.duration = frame.pts, frame.duration
    return buffer


def main() -> None:
    """Source and sink are pieces of pipelines, as for gst-launch-1.0."""
    Gst.init(None)
    before = Gst.parse_launch(f"{sys.argv[1]} ! videoconvert ! video/x-raw,format=BGR ! appsink name=out sync=false")
    after = Gst.parse_launch(f"appsrc name=in format=time ! videoconvert ! {sys.argv[2]}")
    source = after.get_by_name("in")
    try:
        for pipeline in (after, before):
            if pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
                ended(pipeline)
        with crispstream.Deblurrer("nano") as deblur:
            for frame in deblur.stream(frames(before, source)):
                while source.get_property("current-level-bytes") > QUEUED:
                    ended(after, Gst.SECOND // 100)
                source.emit("push-buffer", buffer_of(frame))
        source.emit("end-of-stream")
        ended(after, 10 * Gst.SECOND)
    finally:
        for pipeline in (before, after):
            pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main()
