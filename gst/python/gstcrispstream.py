# SPDX-License-Identifier: Apache-2.0
"""The GStreamer element ``crispstream``: removes motion blur from raw video. ``gst/README.md`` says how to set it up.

The file is not named after the package: GStreamer puts its folder first on Python's path.
"""

from __future__ import annotations

import os
import site
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # noqa: E402

FORMATS = {"BGR": "BGR24", "RGB": "RGB24", "NV12": "NV12", "I420": "I420"}
"""GStreamer's names of the formats, and ours."""
MAX_SIDE = 32768
WARM_UP = 2
"""Neutral frames before the first one: the first opens the engine's session, the second shows what a frame takes."""
USUAL = 0.9
"""The latency that is told is what this part of the frames take at most."""
RECENT = 30
"""Frames that it is measured from."""
HYSTERESIS = 1.25
"""It is told again when it has grown so much: every change makes the pipeline pause or skip."""

_CAPS = Gst.Caps.from_string(
    f"video/x-raw, format=(string){{{', '.join(FORMATS)}}}, width=(int)[1, {MAX_SIDE}], height=(int)[1, {MAX_SIDE}],"
    " framerate=(fraction)[0/1, 2147483647/1]"
)
_AT_START = GObject.ParamFlags.READWRITE | Gst.PARAM_MUTABLE_READY
_AT_ANY_TIME = GObject.ParamFlags.READWRITE | Gst.PARAM_MUTABLE_PLAYING


class CrispStream(GstBase.BaseTransform):
    """Restores every frame in place; a property that is read at the start counts from READY to PAUSED on.

    What fails is an element error of one line. The engine lives from READY to PAUSED to READY; no two elements share
    one.
    """

    __gstmetadata__ = (
        "CrispStream",
        "Filter/Effect/Video",
        "Removes motion blur, people first",
        "The CrispStream authors",
    )
    __gsttemplates__ = tuple(
        Gst.PadTemplate.new(name, direction, Gst.PadPresence.ALWAYS, _CAPS)
        for name, direction in (("sink", Gst.PadDirection.SINK), ("src", Gst.PadDirection.SRC))
    )

    preset = GObject.Property(
        type=str,
        default="nano",
        nick="Preset",
        blurb="Engine by name (see: crispstream engines), or a folder with a manifest",
        flags=_AT_START,
    )
    device = GObject.Property(
        type=str,
        default="auto",
        nick="Device",
        blurb="auto (a GPU where there is one), cpu, cuda or cuda:N",
        flags=_AT_START,
    )
    engine = GObject.Property(
        type=str,
        default="auto",
        nick="Engine backend",
        blurb="auto, tensorrt, tensorrt-rtx, onnxruntime, onnxruntime-int8 or torch",
        flags=_AT_START,
    )
    threads = GObject.Property(
        type=int,
        default=0,
        minimum=0,
        maximum=1024,
        nick="Threads",
        blurb="CPU threads at most (0 = what the system leaves to this process)",
        flags=_AT_START,
    )
    gating = GObject.Property(
        type=bool,
        default=True,
        nick="Gating",
        blurb="Leave branches of the network out where nothing is blurred",
        flags=_AT_ANY_TIME,
    )

    def __init__(self) -> None:
        super().__init__()
        self._strength = self._now = 1.0
        self._deblurrer: Any = None
        self._stream: Any = None
        self._layout: _Layout | None = None
        self._resumed = self._failed = False
        self._pace = Pace()
        self.set_in_place(True)
        self.set_qos_enabled(True)
        self.set_gap_aware(True)  # keeps the flag: videorate puts it on repeated frames, which are restored like others
        # A method would hold the element for ever. do_query cannot be overridden in Python: Gst.Element has one, too.
        self.srcpad.set_query_function_full(_answer, None)

    @GObject.Property(
        type=float,
        default=1.0,
        minimum=0.0,
        maximum=2.0,
        nick="Strength",
        blurb="Factor on the correction: 0 passes frames through untouched, 1 is the network's answer",
        flags=_AT_ANY_TIME | Gst.PARAM_CONTROLLABLE,
    )
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = value

    def do_start(self) -> bool:
        self._failed = False
        try:
            # Not in this thread: in Python's main thread the import would put Python's handler of Ctrl-C in the place
            # of the application's.
            with ThreadPoolExecutor(1) as helper:
                self._deblurrer = helper.submit(self._open).result()
        except ImportError as error:
            self._fail(Gst.LibraryError.INIT, _import_trouble(error))
        except Exception as error:
            self._fail(Gst.LibraryError.SETTINGS, error)
        return self._deblurrer is not None

    def do_stop(self) -> bool:
        deblurrer, self._deblurrer, self._stream = self._deblurrer, None, None
        if deblurrer is not None:
            deblurrer.close()
        return True

    def do_set_caps(self, incaps: Gst.Caps, outcaps: Gst.Caps) -> bool:
        try:
            self._layout = _Layout(GstVideo.VideoInfo.new_from_caps(incaps))
            self._stream = self._deblurrer.open_stream()
            if self._layout.interlaced:
                self._warn("the video is interlaced: put deinterlace before crispstream for a clean result")
            neutral = self._layout.neutral()
            self._pace = Pace()
            for _ in range(WARM_UP):
                started = perf_counter()
                self._deblurrer(neutral)
            self._observe(perf_counter() - started)
        except Exception as error:
            self._fail(Gst.StreamError.FORMAT, error)
            return False
        return True

    def do_src_event(self, event: Gst.Event) -> bool:
        handled = GstBase.BaseTransform.do_src_event(self, event)
        if event.type == Gst.EventType.QOS:
            # The base class drops what is late already. What will be late when it is done is of no use either, and an
            # engine that is slower than the source would bring nothing but that.
            _kind, proportion, diff, timestamp = event.parse_qos()
            self.update_qos(proportion, diff + int(self._pace.told * Gst.SECOND), timestamp)
        return bool(handled)

    def do_before_transform(self, buffer: Gst.Buffer) -> None:
        if self.has_active_control_bindings():
            time = self.segment.to_stream_time(Gst.Format.TIME, buffer.pts)
            if time != Gst.CLOCK_TIME_NONE:
                self.sync_values(time)
        # Here and nowhere else: between this and do_transform_ip the base class makes the buffer writable, or does not.
        self._now = self._strength
        self.set_passthrough(self._now == 0)

    def do_transform_ip(self, buffer: Gst.Buffer) -> Gst.FlowReturn:
        if self._now == 0:  # called nevertheless
            self._resumed = True
            return Gst.FlowReturn.OK
        try:
            started = perf_counter()
            self._restore(buffer)
            self._observe(perf_counter() - started)
        except Exception as error:  # one that came out of here would be printed and taken for success
            self._fail(Gst.StreamError.FAILED, error)
            return Gst.FlowReturn.ERROR
        return Gst.FlowReturn.OK

    def _open(self) -> Any:
        # A process that is told of a site-packages folder by PYTHONPATH does not read its .pth files, by which editable
        # installs are found.
        for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            if os.path.basename(os.path.normpath(folder)) == "site-packages":
                site.addsitedir(folder)
        from crispstream import Deblurrer

        return Deblurrer(
            self.preset,
            self.device,
            self._strength,
            backend=self.engine,
            gating=self.gating,
            threads=self.threads or None,
        )

    def _restore(self, buffer: Gst.Buffer) -> None:
        """Put the restored picture in the buffer's memory."""
        import numpy as np

        restart = self._resumed or buffer.has_flags(Gst.BufferFlags.DISCONT)
        self._resumed = False
        self._deblurrer.strength, self._deblurrer.gating = self._now, self.gating
        with buffer.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE) as mapped:
            frame = self._layout.frame(mapped.data, GstVideo.buffer_get_video_meta(buffer), restart)
            result = self._stream.process(frame)
            for here, restored in zip(frame.planes, result.planes, strict=True):
                np.copyto(here, restored)

    def _observe(self, seconds: float) -> None:
        if self._pace.add(seconds):
            self.post_message(Gst.Message.new_latency(self))

    def _fail(self, code: Any, error: Exception | str) -> None:
        """One error message: a source that is refused its caps tries again and again."""
        if not self._failed:
            self._failed = True
            self.post_message(Gst.Message.new_error(self, _gerror(code, _one_line(error)), type(error).__name__))

    def _warn(self, text: str) -> None:
        self.post_message(Gst.Message.new_warning(self, _gerror(Gst.StreamError.FORMAT, text), ""))


class Pace:
    """How long frames take, and what of it downstream was told, in seconds."""

    def __init__(self) -> None:
        self.told = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> bool:
        """Whether what was told is not true any more."""
        self._recent.append(seconds)
        usual = sorted(self._recent)[int(USUAL * (len(self._recent) - 1))]
        if usual <= HYSTERESIS * self.told:
            return False
        self.told = usual
        return True


class _Layout:
    """How frames of one caps lie in memory and what their codes mean."""

    def __init__(self, info: GstVideo.VideoInfo) -> None:
        from crispstream.frame import ChromaSiting, ColorSpec, Matrix, PixelFormat, Range

        color, code = info.colorimetry, GstVideo.VideoColorMatrix
        matrices = {
            code.BT601: Matrix.BT601,
            code.FCC: Matrix.BT601,  # differs in the third decimal, as does the next
            code.SMPTE240M: Matrix.BT709,
            code.BT709: Matrix.BT709,
            code.BT2020: Matrix.BT2020,
        }
        centered = info.chroma_site & GstVideo.VideoChromaSite.NONE
        self.format = PixelFormat[FORMATS[info.finfo.name]]
        self.color = ColorSpec(
            matrices.get(color.matrix, Matrix.BT709 if info.height >= 720 else Matrix.BT601),
            Range.FULL if color.range == getattr(GstVideo.VideoColorRange, "0_255") else Range.LIMITED,
            ChromaSiting.CENTER if centered else ChromaSiting.LEFT,
        )
        self.interlaced = info.interlace_mode != GstVideo.VideoInterlaceMode.PROGRESSIVE
        self._info = info

    def frame(self, memory: memoryview, meta: GstVideo.VideoMeta | None, discontinuity: bool) -> Any:
        """The picture in a buffer's memory as a ``Frame``; ``meta`` says where strides or offsets are unusual."""
        import numpy as np

        from crispstream.frame import Frame, plane_shapes

        place = meta or self._info
        shapes = plane_shapes(self.format, place.width, place.height)
        planes = tuple(
            np.ndarray(shape, np.uint8, memory, offset, (stride, *((shape[2], 1) if len(shape) == 3 else (1,))))
            for shape, offset, stride in zip(shapes, place.offset, place.stride, strict=False)  # those have four
        )
        return Frame(planes, self.format, self.color, discontinuity=discontinuity)

    def neutral(self) -> Any:
        """A frame of one gray."""
        import numpy as np

        from crispstream.frame import Frame, plane_shapes

        shapes = plane_shapes(self.format, self._info.width, self._info.height)
        return Frame(tuple(np.full(shape, 128, np.uint8) for shape in shapes), self.format, self.color)


def _answer(pad: Gst.Pad, element: CrispStream, query: Gst.Query) -> bool:
    """Adds what a frame takes to the latency that upstream tells. Also where strength is 0: a sink's clock must not
    jump when somebody moves a slider over it."""
    answered = GstBase.BaseTransform.do_query(element, Gst.PadDirection.SRC, query)
    if answered and query.type == Gst.QueryType.LATENCY:
        live, least, most = query.parse_latency()
        own = int(element._pace.told * Gst.SECOND)
        query.set_latency(live, least + own, most if most == Gst.CLOCK_TIME_NONE else most + own)
    return bool(answered)


def _gerror(code: Any, text: str) -> GLib.Error:
    return GLib.Error.new_literal(type(code).quark(), text, int(code))


def _one_line(error: Exception | str) -> str:
    hint = getattr(error, "hint", "")
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({hint})" if hint else text


def _import_trouble(error: ImportError) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"GStreamer's Python {version} cannot import crispstream ({reason}): set PYTHONPATH to the site-packages folder"
        f" of a virtual environment of Python {version} in which it is installed"
    )


GObject.type_register(CrispStream)
__gstelementfactory__ = ("crispstream", Gst.Rank.NONE, CrispStream)
