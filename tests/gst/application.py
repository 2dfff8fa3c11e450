# SPDX-License-Identifier: Apache-2.0
"""An application around the element, and pictures for it. Runs in GStreamer's Python."""

from __future__ import annotations

import os
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstApp, GstVideo  # noqa: E402, F401

Gst.init(None)

import numpy as np  # noqa: E402

SECOND = Gst.SECOND
TIMEOUT = 60 * SECOND


class Line:
    """An appsrc, the element and an appsink."""

    def __init__(self, properties: str = "", threads: int = 1) -> None:
        self.pipeline = Gst.parse_launch(
            f"appsrc name=in format=time ! crispstream name=it threads={threads} {properties}"
            " ! appsink name=out sync=false max-buffers=0"
        )
        self.source, self.element, self.sink = (self.pipeline.get_by_name(n) for n in ("in", "it", "out"))
        self.caps, self.count = "", 0
        self.pipeline.set_state(Gst.State.PLAYING)

    def push(self, frame: Any, caps: str = "", padding: int = 0, flags: int = 0) -> None:
        """``padding``: bytes after every row and before every plane, told by a GstVideoMeta."""
        height, width = frame.planes[0].shape[:2]
        name = {"BGR24": "BGR", "RGB24": "RGB"}.get(frame.format.name, frame.format.name)
        caps = f"video/x-raw,format={name},width={width},height={height},framerate=25/1{caps}"
        if caps != self.caps:
            self.caps = caps
            self.source.set_caps(Gst.Caps.from_string(caps))
        data, offsets, strides = b"", [], []
        for plane in frame.planes:
            rows = plane.reshape(plane.shape[0], -1)
            data += b"\xee" * padding
            offsets.append(len(data))
            strides.append(rows.shape[1] + padding)
            data += np.pad(rows, ((0, 0), (0, padding)), constant_values=0xEE).tobytes()
        buffer = Gst.Buffer.new_wrapped(data)
        GstVideo.buffer_add_video_meta_full(
            buffer,
            GstVideo.VideoFrameFlags.NONE,
            GstVideo.VideoFormat.from_string(name),
            width,
            height,
            len(offsets),
            offsets + [0] * (4 - len(offsets)),
            strides + [0] * (4 - len(strides)),
        )
        buffer.pts, buffer.duration = self.count * SECOND // 25, SECOND // 25
        buffer.set_flags(Gst.BufferFlags(flags))
        self.count += 1
        assert self.source.push_buffer(buffer) == Gst.FlowReturn.OK

    def pull(self) -> Gst.Buffer:
        sample = self.sink.try_pull_sample(TIMEOUT)
        if sample is None:
            message = self.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
            raise AssertionError(message.parse_error() if message else "no buffer came")
        return sample.get_buffer()

    def through(self, frame: Any, **how: Any) -> tuple[np.ndarray, ...]:
        """The planes that come back."""
        self.push(frame, **how)
        return planes(self.pull(), frame)

    def finish(self) -> None:
        self.source.end_of_stream()
        message = self.pipeline.get_bus().timed_pop_filtered(TIMEOUT, Gst.MessageType.EOS | Gst.MessageType.ERROR)
        assert message is not None and message.type == Gst.MessageType.EOS, message and message.parse_error()
        self.close()

    def close(self) -> None:
        self.pipeline.set_state(Gst.State.NULL)


def content(sink: Gst.Element) -> bytes:
    """The next buffer of an appsink."""
    buffer = sink.try_pull_sample(TIMEOUT).get_buffer()
    return bytes(buffer.extract_dup(0, buffer.get_size()))


def planes(buffer: Gst.Buffer, like: Any) -> tuple[np.ndarray, ...]:
    meta = GstVideo.buffer_get_video_meta(buffer)
    with buffer.map(Gst.MapFlags.READ) as mapped:
        data = bytes(mapped.data)
    found = []
    for plane, offset, stride in zip(like.planes, meta.offset, meta.stride, strict=False):
        inner = plane[0].strides
        found.append(np.ndarray(plane.shape, np.uint8, data, offset, (stride, *inner)).copy())
    return tuple(found)


def moving(index: int, name: str = "BGR24", width: int = 64, height: int = 48, **color: Any) -> Any:
    """A picture with a smeared bar that moves."""
    from crispstream.frame import ColorSpec, Frame, PixelFormat, plane_shapes

    made = []
    for number, shape in enumerate(plane_shapes(PixelFormat[name], width, height)):
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        wave = 110 + 80 * np.sin((columns - 5 * index) / 9.0 + number) + rows % 40
        made.append(np.broadcast_to(wave.reshape(*wave.shape, *[1] * (len(shape) - 2)), shape).astype(np.uint8))
    return Frame(tuple(made), PixelFormat[name], ColorSpec(**color))


def engine() -> Any:
    from crispstream import Deblurrer

    return Deblurrer(threads=1)


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def rss() -> int:
    """Kilobytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def as_rgb(frame: Any) -> Any:
    """The colour that caps of BGR and RGB amount to."""
    from dataclasses import replace

    from crispstream.frame import ColorSpec, Range

    return replace(frame, color=ColorSpec(range=Range.FULL))
