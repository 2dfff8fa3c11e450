# SPDX-License-Identifier: Apache-2.0
"""A GStreamer pipeline as a live source."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any

import numpy as np

from crispstream.errors import InputError, UsageError
from crispstream.frame import MAX_SIDE, ColorSpec, Frame, PixelFormat, Plane, Range, plane_shapes
from crispstream.live.addresses import masked
from crispstream.live.protocol import CAPTURED, POLL_SECONDS, EndOfSource, Timeouts
from crispstream.tags import VideoTags

SINK = "crispstream"
"""Name of the appsink, in a pipeline that brings its own."""

_FORMATS = {"BGR": PixelFormat.BGR24, "RGB": PixelFormat.RGB24, "NV12": PixelFormat.NV12, "I420": PixelFormat.I420}
# What GStreamer converts to otherwise; costs nothing where the format is one of these.
_TAIL = f" ! videoconvert ! video/x-raw,format=(string){{{','.join(_FORMATS)}}} ! appsink name={SINK}"
_PACKAGES = "apt install python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base"
_NANOSECONDS = 1_000_000_000
_OLDEST = 10.0
"""Seconds. A frame that claims to have waited longer says nothing about when it was taken."""

_logger = logging.getLogger("crispstream.live")


class GStreamerSource:
    """The frames of ``pipeline``: its last element is left open, or is an appsink of the name ``crispstream``.

    Of a pipeline with a live source only the newest frame is kept; another one runs in real time. CAPTURED comes from
    the pipeline's clock. Raises UsageError where PyGObject or GStreamer is missing.
    """

    def __init__(self, pipeline: str, timeouts: Timeouts | None = None) -> None:
        self.name = masked(pipeline)
        self._text, self._timeouts = pipeline, timeouts or Timeouts()
        self._gst, self._video = _gstreamer()
        self._pipeline: Any = None
        self._sink: Any = None
        self._bus: Any = None
        self._message: Any = None
        self._live = False
        self._caps: Any = None
        self._layout: Layout | None = None
        self._changed = threading.Condition()
        self._newest: Any = None
        self._heard = 0.0
        self.dropped = self.damaged = 0

    def open(self) -> None:
        """Start the pipeline and wait for its first frame. Raises InputError, UsageError for what is no pipeline."""
        gst = self._gst
        self._pipeline, self._sink = self._parse()
        self._bus = self._pipeline.get_bus()
        deadline = monotonic() + self._timeouts.open
        self._set_state(gst.State.PAUSED)
        while True:
            result = self._pipeline.get_state(int(POLL_SECONDS * _NANOSECONDS))[0]
            self._raise_messages()
            if result is gst.StateChangeReturn.FAILURE:
                raise InputError(f"{self.name} does not start")
            if result is not gst.StateChangeReturn.ASYNC:
                break
            self._check(deadline, self._timeouts.open)
        self._live = result is gst.StateChangeReturn.NO_PREROLL
        self._sink.set_property("sync", not self._live)
        self._set_state(gst.State.PLAYING)
        while not self._wait():
            self._check(deadline, self._timeouts.open)
        self._heard = monotonic()
        _logger.info("%s: %s", self.name, "live" if self._live else "in real time")

    def read(self) -> Frame | None:
        """The newest frame; None where none came for a while. Raises InputError and EndOfSource."""
        if not self._wait():
            self._check(self._heard + self._timeouts.read, self._timeouts.read)
            return None
        with self._changed:
            sample, self._newest = self._newest, None
        self._heard = monotonic()
        return self._frame(sample)

    def close(self) -> None:
        """Stop the pipeline and let go of its devices. Idempotent."""
        if self._pipeline is not None:
            self._pipeline.set_state(self._gst.State.NULL)
        self._pipeline = self._sink = self._bus = self._message = self._newest = self._caps = None

    def _parse(self) -> tuple[Any, Any]:
        own = re.search(rf'\bname\s*=\s*"?{SINK}\b', self._text) is not None
        try:
            pipeline = self._gst.parse_launch(self._text if own else self._text + _TAIL)
        except Exception as error:  # GLib.Error, a class that only exists with PyGObject
            reason = masked(str(getattr(error, "message", error)))
            raise UsageError(
                f"no pipeline: {reason}", f"try gst-launch-1.0 '{self.name} ! fakesink'; elements come from apt"
            ) from None
        sink = pipeline.get_by_name(SINK) if isinstance(pipeline, self._gst.Bin) else None
        if sink is None or sink.get_factory().get_name() != "appsink":
            raise UsageError(f"{self.name}: the element named {SINK} is no appsink", "leave the pipeline's end open")
        for name, value in (("max-buffers", 1), ("enable-last-sample", False), ("emit-signals", True)):
            sink.set_property(name, value)
        sink.connect("new-sample", self._keep)
        return pipeline, sink

    def _keep(self, sink: Any) -> Any:
        """In the pipeline's thread: the newest sample takes the place of one that nobody has read. An appsink that does
        so by itself does not count them."""
        sample = sink.emit("pull-sample")
        if sample is not None:  # it is stopping
            with self._changed:
                self.dropped += self._newest is not None
                self._newest = sample
                self._changed.notify()
        return self._gst.FlowReturn.OK

    def _set_state(self, state: Any) -> None:
        if self._pipeline.set_state(state) is self._gst.StateChangeReturn.FAILURE:
            self._raise_messages()
            raise InputError(f"{self.name} does not start")

    def _wait(self) -> bool:
        """Whether there is a sample, after POLL_SECONDS at most. Raises what the pipeline reports."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, POLL_SECONDS)
        self._raise_messages()
        return self._newest is not None

    def _check(self, deadline: float, seconds: float) -> None:
        if monotonic() > deadline:
            raise InputError(f"{self.name} gave no frame for {seconds:g} s", "is the camera or sender running?")

    def _raise_messages(self) -> None:
        """Take everything from the bus, where some elements leave a message for every buffer. Raise the first error,
        or the end of the stream once its last frame, which came before that, has been read."""
        gst = self._gst
        while (message := self._bus.pop_filtered(gst.MessageType.ERROR | gst.MessageType.EOS)) is not None:
            self._message = self._message or message
        message = self._message
        if message is None or (message.type == gst.MessageType.EOS and self._newest is not None):
            return
        if message.type == gst.MessageType.ERROR:
            error, _ = message.parse_error()
            raise InputError(f"{self.name}: {masked(error.message)} ({message.src.get_name()})")
        if self._live and self._from_network():  # whose servers end a stream by going away
            raise InputError(f"{self.name} ended the connection")
        raise EndOfSource(f"{self.name} has ended")

    def _from_network(self) -> bool:
        elements = self._pipeline.iterate_recurse()
        while True:
            result, element = elements.next()
            if result is not self._gst.IteratorResult.OK:
                return False
            factory = element.get_factory()
            if factory is not None and {"Source", "Network"} <= set((factory.get_metadata("klass") or "").split("/")):
                return True

    def _frame(self, sample: Any) -> Frame:
        buffer, caps = sample.get_buffer(), sample.get_caps()
        if self._caps is None or not caps.is_equal(self._caps):
            self._caps, self._layout = caps, self._read_layout(caps)
        layout = self._layout
        assert layout is not None
        meta = self._video.buffer_get_video_meta(buffer)
        strides, offsets = (layout.strides, layout.offsets) if meta is None else (meta.stride, meta.offset)
        with buffer.map(self._gst.MapFlags.READ) as memory:  # which the pipeline takes back
            data = np.frombuffer(memory.data, np.uint8).copy()
        captured = self._captured(sample, buffer)
        return Frame(
            layout.planes(data, strides, offsets),
            layout.format,
            layout.tags.color(layout.height) if layout.format.is_yuv else ColorSpec(range=Range.FULL),
            pts=buffer.pts if buffer.pts != self._gst.CLOCK_TIME_NONE else round(captured * _NANOSECONDS),
            time_base=Fraction(1, _NANOSECONDS),
            duration=buffer.duration if buffer.duration != self._gst.CLOCK_TIME_NONE else None,
            info={"video_tags": layout.tags, CAPTURED: captured},
        )

    def _captured(self, sample: Any, buffer: Any) -> float:
        """When the buffer was taken: its running time against the pipeline's clock; now, where that makes no sense."""
        now, clock, segment = monotonic(), self._pipeline.get_clock(), sample.get_segment()
        if clock is None or buffer.pts == self._gst.CLOCK_TIME_NONE or segment.format != self._gst.Format.TIME:
            return now
        running = segment.to_running_time(self._gst.Format.TIME, buffer.pts)
        age = (clock.get_time() - self._pipeline.get_base_time() - running) / _NANOSECONDS
        return now - age if 0 <= age <= _OLDEST else now

    def _read_layout(self, caps: Any) -> Layout:
        info = self._video.VideoInfo.new_from_caps(caps)
        if info is None or info.finfo.name not in _FORMATS:
            raise UsageError(
                f"{self.name} gives {caps.to_string().split(',')[0]}, not {', '.join(_FORMATS)}",
                "leave the pipeline's end open: what is missing is then converted",
            )
        if max(info.width, info.height) > MAX_SIDE:
            raise InputError(f"{self.name} is {info.width}x{info.height}: a side may have {MAX_SIDE} pixels")
        color, iso = info.colorimetry, self._video
        tags = VideoTags(
            matrix=_code(iso.video_color_matrix_to_iso(color.matrix)),
            range={1: 2, 2: 1}.get(int(color.range), 0),  # GStreamer counts full range first
            primaries=_code(iso.video_color_primaries_to_iso(color.primaries)),
            transfer=_code(iso.video_transfer_function_to_iso(color.transfer)),
            chroma_location=_location(iso.VideoChromaSite, info.chroma_site),
            sample_aspect_ratio=Fraction(info.par_n, info.par_d) if info.par_n != info.par_d else None,
        )
        pixel_format = _FORMATS[info.finfo.name]
        return Layout(pixel_format, info.width, info.height, tuple(info.stride), tuple(info.offset), tags)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the frames of one caps lie in their buffers; strides and offsets in bytes."""

    format: PixelFormat
    width: int
    height: int
    strides: tuple[int, ...]
    offsets: tuple[int, ...]
    tags: VideoTags

    def planes(self, data: Plane, strides: Any, offsets: Any) -> tuple[Plane, ...]:
        """The planes in ``data``, a row of bytes, as views, shaped as ``Frame`` wants them."""
        shapes = plane_shapes(self.format, self.width, self.height)
        return tuple(
            np.ndarray(shape, np.uint8, data.data, offset, (stride, *((shape[2], 1) if len(shape) == 3 else (1,))))
            for shape, stride, offset in zip(shapes, strides, offsets, strict=False)
        )


def _code(value: int) -> int:
    """GStreamer's unknown is 2 or 0, H.273's is 2; 0 is the identity matrix, which is RGB's and no YUV frame has."""
    return int(value) or 2


def _location(site: Any, value: Any) -> int:
    """FFmpeg's number of a chroma siting: 0 unspecified, 1 left, 2 center, 3 top left."""
    known = ((site.MPEG2, 1), (site.JPEG, 2), (site.COSITED, 3))
    return next((number for flag, number in known if int(value) == int(flag)), 0)


def _gstreamer() -> tuple[Any, Any]:
    """The modules Gst and GstVideo, ready. Raises UsageError where they are missing."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp, GstVideo  # noqa: F401 - GstApp makes appsinks known
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"GStreamer pipelines need PyGObject ({error})",
            f"{_PACKAGES}; then set PYTHONPATH=/usr/lib/python3/dist-packages (docs/live.md)",
        ) from error
    if not hasattr(Gst.MapInfo, "__enter__"):  # without it a picture could only be copied byte by byte
        raise UsageError("GStreamer pipelines need its Python additions", "apt install python3-gst-1.0")
    Gst.init(None)
    return Gst, GstVideo
