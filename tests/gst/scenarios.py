# SPDX-License-Identifier: Apache-2.0
"""Applications around the element, run by GStreamer's Python: ``scenarios.py NAME`` prints what it saw as JSON."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstController", "1.0")
import numpy as np  # noqa: E402
from application import SECOND, TIMEOUT, Line, as_rgb, content, engine, moving, planes, rss, same  # noqa: E402
from gi.repository import GLib, Gst, GstController  # noqa: E402


def layouts() -> Any:
    """Padded rows, odd sizes and offsets give what the tight picture gives; the padding is not touched."""
    line, seen = Line(), {}
    for name, width, height in (("NV12", 65, 33), ("I420", 33, 17), ("BGR24", 31, 20), ("RGB24", 47, 21)):
        with engine() as deblurrer:
            stream = deblurrer.open_stream()
            for index, padding in enumerate((0, 7, 64)):
                from crispstream.frame import ChromaSiting, Matrix, Range

                limited = Range.LIMITED if name in ("NV12", "I420") else Range.FULL
                color = {"matrix": Matrix.BT601, "range": limited, "siting": ChromaSiting.CENTER}
                frame = moving(index, name, width, height, **color)
                want = stream.process(frame)
                line.push(frame, padding=padding)
                buffer = line.pull()
                untouched = True
                if padding:
                    with buffer.map(Gst.MapFlags.READ) as mapped:
                        data = bytes(mapped.data)
                    untouched = data[:padding] == b"\xee" * padding == data[-padding:]
                changed = not same(frame.planes, want.planes)
                seen[f"{name} {padding}"] = [same(planes(buffer, frame), want.planes), untouched, changed]
    line.finish()
    return seen


def colours() -> Any:
    """What the caps say of colour is what is computed with."""
    from_caps = {
        "bt601": ("2:4:0:0", "jpeg"),
        "bt709": ("bt709", "mpeg2"),
        "bt2020": ("bt2020", "mpeg2"),
        "full": ("1:4:0:0", "jpeg"),
        "left": ("2:4:0:0", "mpeg2"),
    }
    seen, results = {}, []
    for number, (case, (colorimetry, site)) in enumerate(from_caps.items()):
        line = Line()
        from crispstream.frame import ChromaSiting, Matrix, Range

        matrix = {"bt709": Matrix.BT709, "bt2020": Matrix.BT2020}.get(case, Matrix.BT601)
        siting = ChromaSiting.CENTER if site == "jpeg" else ChromaSiting.LEFT
        frame = moving(1, "NV12", 64, 48, matrix=matrix, range=Range(int(case == "full")), siting=siting)
        got = line.through(frame, caps=f",colorimetry={colorimetry},chroma-site={site}")
        with engine() as deblurrer:
            want = deblurrer.open_stream().process(frame).planes
        results.append(want)
        seen[case] = [same(got, want), not any(same(want, other) for other in results[:number])]
        line.finish()
    return seen


def strength() -> Any:
    """0, then 1, while it plays; then by a controller over time."""
    line = Line("strength=0")
    seen: dict[str, Any] = {}
    frames = [moving(i) for i in range(9)]
    seen["off"] = [same(line.through(f), f.planes) for f in frames[:3]]
    line.element.set_property("strength", 1.0)
    with engine() as deblurrer:
        stream = deblurrer.open_stream()
        seen["on"] = [same(line.through(f), stream.process(as_rgb(f)).planes) for f in frames[3:6]]
    line.finish()

    line = Line()
    control = GstController.InterpolationControlSource.new()
    control.props.mode = GstController.InterpolationMode.NONE
    line.element.add_control_binding(GstController.DirectControlBinding.new_absolute(line.element, "strength", control))
    control.set(0, 0.0)
    control.set(3 * SECOND // 25, 1.0)
    seen["controlled"] = [same(line.through(f), f.planes) for f in frames[:6]]
    line.finish()
    return seen


def slider() -> Any:
    """Strength goes on and off in another thread: every frame is whole, untouched or restored."""
    line = Line("gating=false")
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for value in (0.0, 1.0):
                line.element.set_property("strength", value)
                time.sleep(0.003)

    frames = [moving(i) for i in range(5)]
    line.through(frames[0])
    with engine() as deblurrer:
        restored = [deblurrer(as_rgb(frame)).planes for frame in frames]
    mover = threading.Thread(target=move)
    mover.start()
    neither, count = 0, 150
    for index in range(count):
        got = line.through(frames[index % 5])
        neither += not (same(got, frames[index % 5].planes) or same(got, restored[index % 5]))
    stop.set()
    mover.join()
    line.finish()
    return {"frames": count, "neither": neither}


def interlaced() -> Any:
    """The warnings that fields get."""
    line = Line()
    line.through(moving(0), caps=",interlace-mode=interleaved,field-order=top-field-first")
    message = line.pipeline.get_bus().pop_filtered(Gst.MessageType.WARNING)
    text = message.parse_warning()[0].message
    line.finish()
    return [part for part in ("put deinterlace before crispstream",) if part in text]


def caps_change() -> Any:
    """Another size, another format: the stream begins afresh each time."""
    line = Line()
    from crispstream.frame import ChromaSiting, Matrix

    seen = []
    sd = {"matrix": Matrix.BT601, "siting": ChromaSiting.CENTER}
    with engine() as deblurrer:
        for name, width, height in (("BGR24", 64, 48), ("NV12", 96, 64), ("NV12", 64, 48), ("BGR24", 64, 48)):
            stream = deblurrer.open_stream()
            for index in range(4):
                frame = moving(index, name, width, height, **(sd if name == "NV12" else {}))
                frame = frame if name == "NV12" else as_rgb(frame)
                seen.append(same(line.through(frame), stream.process(frame).planes))
    line.finish()
    return seen


def marks() -> Any:
    """Times and flags come out as they went in; DISCONT makes the stream begin afresh."""
    line = Line()
    flags = {6: Gst.BufferFlags.DISCONT, 8: Gst.BufferFlags.GAP, 9: Gst.BufferFlags.CORRUPTED}
    interesting = Gst.BufferFlags.DISCONT | Gst.BufferFlags.GAP | Gst.BufferFlags.CORRUPTED
    restarts, times, kept = [], [], []
    line.through(moving(0))
    process = line.element._stream.process

    def spy(frame: Any) -> Any:
        restarts.append(frame.discontinuity)
        return process(frame)

    line.element._stream.process = spy
    for index in range(1, 11):
        given = flags.get(index, Gst.BufferFlags(0))
        line.push(moving(index), flags=given)
        buffer = line.pull()
        times.append((buffer.pts, buffer.duration) == (index * SECOND // 25, SECOND // 25))
        kept.append(buffer.get_flags() & interesting == given)
    line.finish()
    return {"restarts": [i + 1 for i, r in enumerate(restarts) if r], "times": all(times), "flags": all(kept)}


def again() -> Any:
    """PLAYING, NULL, PLAYING; the engine goes with NULL and after EOS, a flushing seek starts afresh."""
    from_start = Gst.parse_launch(
        "videotestsrc num-buffers=400 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1"
        " ! crispstream name=it threads=1 ! appsink name=out sync=false max-buffers=2"
    )
    element, sink = from_start.get_by_name("it"), from_start.get_by_name("out")
    seen: dict[str, Any] = {"rounds": []}
    for _ in range(2):
        from_start.set_state(Gst.State.PLAYING)
        first = [content(sink) for _ in range(5)]
        engine_alive = weakref.ref(element._deblurrer)
        from_start.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE, 0)
        after = sink.try_pull_sample(TIMEOUT).get_buffer()
        seen["rounds"].append(
            [bool(after.pts == 0), bytes(after.extract_dup(0, after.get_size())) == first[0], len(set(first)) == 5]
        )
        from_start.set_state(Gst.State.NULL)
        gc.collect()
        seen["rounds"][-1].append(engine_alive() is None)
        seen.setdefault("first", first)
        seen["rounds"][-1].append(first == seen["first"])
    del seen["first"]
    return seen


def late() -> Any:
    """A live source of 20 frames a second and an engine that takes a fifth of a second."""
    pipeline = Gst.parse_launch(
        "videotestsrc is-live=true num-buffers=80 ! video/x-raw,format=NV12,width=64,height=48,framerate=20/1"
        " ! queue max-size-buffers=100 ! crispstream name=it threads=1"
        " ! fakesink name=out sync=true qos=true max-lateness=20000000 signal-handoffs=true"
    )
    element, sink = pipeline.get_by_name("it"), pipeline.get_by_name("out")
    pipeline.set_state(Gst.State.READY)
    pipeline.set_state(Gst.State.PAUSED)
    deblurrer = type(element._deblurrer)
    stream = type(element._deblurrer.open_stream())
    call, process = deblurrer.__call__, stream.process

    def slow(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Any, frame: Any) -> Any:
            time.sleep(0.2)
            return original(self, frame)

        return wrapped

    deblurrer.__call__, stream.process = slow(call), slow(process)
    shown: list[int] = []
    sink.connect("handoff", lambda _sink, buffer, _pad: shown.append(buffer.pts))
    loop = GLib.MainLoop()
    dropped = processed = 0

    def on_message(_bus: Any, message: Gst.Message) -> None:
        nonlocal dropped, processed
        if message.type == Gst.MessageType.QOS and message.src == element:
            _format, processed, dropped = message.parse_qos_stats()
        elif message.type == Gst.MessageType.LATENCY:
            pipeline.recalculate_latency()
        elif message.type in (Gst.MessageType.EOS, Gst.MessageType.ERROR):
            loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    GLib.timeout_add_seconds(30, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    query = Gst.Query.new_latency()
    assert pipeline.query(query)
    latency = query.parse_latency()[1] / SECOND
    last = shown[-1] / SECOND if shown else 0
    pipeline.set_state(Gst.State.NULL)
    return {"shown": len(shown), "dropped": dropped, "processed": processed, "latency": latency, "last": last}


def leak() -> Any:
    """Frames, then whole pipelines: memory stays flat, elements and engines go."""
    line = Line()
    frames = [moving(i, width=160, height=96) for i in range(8)]
    memory = []
    for index in range(600):
        line.through(frames[index % 8])
        if index % 200 == 199:
            gc.collect()
            memory.append(rss())
    line.finish()
    del line

    gone: list[bool] = []
    pipelines = []
    made = 12
    for _ in range(made):
        line = Line()
        line.through(frames[0])
        line.element.weak_ref(lambda: gone.append(True))
        line.finish()
        del line
        gc.collect()
        pipelines.append(rss())
    deadline = time.monotonic() + 60  # a thread of the last one may just be ending
    while len(gone) < made and time.monotonic() < deadline:
        time.sleep(0.05)
    return {"frames": memory, "pipelines": pipelines, "gone": len(gone), "made": made}


def speed() -> Any:
    """Seconds per frame through the pipeline and of the Deblurrer alone, in turns on the same frames."""
    line = Line()
    deblurrer = engine()
    stream = deblurrer.open_stream()
    alone, piped, copies = [], [], []
    for index in range(25):
        frame = moving(index, width=640, height=360)
        started = time.perf_counter()
        result = stream.process(frame)
        alone.append(time.perf_counter() - started)
        line.push(frame)
        started = time.perf_counter()
        line.pull()
        piped.append(time.perf_counter() - started)
        started = time.perf_counter()
        np.copyto(frame.planes[0], result.planes[0])  # what the element adds
        copies.append(time.perf_counter() - started)
    line.finish()
    a, p, c = (statistics.median(x[5:]) for x in (alone, piped, copies))
    return {"alone_ms": 1000 * a, "piped_ms": 1000 * p, "copy_ms": 1000 * c, "ratio": a / p}


def apart() -> Any:
    """Two elements in one pipeline, of different strengths: each has its own engine and gives its own result."""
    pipeline = Gst.parse_launch(
        "videotestsrc num-buffers=6 pattern=ball ! video/x-raw,format=BGR,width=64,height=48 ! tee name=t"
        " t. ! queue ! crispstream name=a threads=1 strength=1 ! appsink name=oa sync=false"
        " t. ! queue ! crispstream name=b threads=1 strength=0.5 ! appsink name=ob sync=false"
        " t. ! queue ! appsink name=oc sync=false"
    )
    pipeline.set_state(Gst.State.PLAYING)
    a, b = (pipeline.get_by_name(n) for n in "ab")
    seen = {"engines": a._deblurrer is not b._deblurrer, "exact": []}
    with engine() as one, engine() as half:
        half.strength = 0.5
        streams = [one.open_stream(), half.open_stream()]
        for _ in range(6):
            outs = [pipeline.get_by_name(n) for n in ("oc", "oa", "ob")]
            got = [np.frombuffer(content(out), np.uint8).reshape(48, 64, 3) for out in outs]
            from crispstream.frame import Frame

            want = [s.process(Frame.from_array(got[0])).planes[0] for s in streams]
            seen["exact"].append([np.array_equal(x, y) for x, y in zip(want, got[1:], strict=True)])
    pipeline.set_state(Gst.State.NULL)
    return seen


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
