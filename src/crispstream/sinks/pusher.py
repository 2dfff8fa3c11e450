# SPDX-License-Identifier: Apache-2.0
"""The process behind ``PushSink``: encodes with FFmpeg and sends."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from crispstream.convert import as_picture
from crispstream.frame import PixelFormat
from crispstream.live.addresses import masked, scheme
from crispstream.sinks.child import Feed, Limit
from crispstream.sinks.encoders import encoder_threads
from crispstream.sinks.push import CLOCK

_KEY_SECONDS = 2
_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
_MUXER_OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp"},
    "flv": {"flvflags": "no_duration_filesize", "flush_packets": "1"},
    "mpegts": {"flush_packets": "1"},
}


def main() -> None:
    """Obey the orders that come through standard input until it ends."""
    feed = Feed()
    if not feed.about:
        return
    av.logging.set_level(av.logging.ERROR)  # its words come with the exceptions
    try:
        _push(feed)
    except (av.FFmpegError, OSError, ValueError) as error:
        feed.say(error=_told(error))


def _push(feed: Feed) -> None:
    about = feed.about
    with Limit(about["opening"]):
        output, stream = _open(about)
    feed.say(open="")
    context: Any = stream.codec_context
    next_key = 0
    while (order := feed.next(PixelFormat.I420)) is not None:
        picture = as_picture(order.frame)
        picture.colorspace, picture.color_range = context.colorspace, context.color_range
        picture.pts, picture.time_base = order.ticks, CLOCK
        if order.ticks >= next_key:
            picture.pict_type = PictureType.I
            next_key = order.ticks + round(_KEY_SECONDS / CLOCK)
        packets = stream.encode(picture)
        with Limit(about["patience"]):
            output.mux(packets)
    with Limit(about["patience"]):
        output.mux(stream.encode(None))
        output.close()


def _open(about: dict[str, Any]) -> tuple[OutputContainer, VideoStream]:
    url, tags = about["url"], about["tags"]
    if scheme(url) == "udp" and "pkt_size=" not in url:
        # Whole MPEG-TS packets in every datagram, which many receivers want.
        url += ("&" if "?" in url else "?") + "pkt_size=1316"
    output = av.open(url, "w", format=about["muxer"], container_options=_MUXER_OPTIONS[about["muxer"]])
    rate = Fraction(about["rate"])
    options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": "23",
        "maxrate": str(about["bitrate"]),
        "bufsize": str(about["bitrate"]),  # one second
        "bf": "0",
        "g": str(max(1, round(10 * _KEY_SECONDS * rate))),  # key frames come by time
        "forced-idr": "1",
        "chroma_sample_location": _LOCATIONS[tags["chroma_location"]],
    }
    if about["encoder"] == "hevc":
        options["x265-params"] = f"log-level=none:pools={encoder_threads()}"
    stream: Any = output.add_stream(
        {"h264": "libx264", "hevc": "libx265"}[about["encoder"]],
        rate=rate.limit_denominator(65535),
        options=options,
        width=about["width"],
        height=about["height"],
        time_base=CLOCK,
    )
    context = stream.codec_context
    context.pix_fmt = "yuv420p"
    context.colorspace, context.color_range = tags["matrix"], tags["range"]
    context.color_primaries, context.color_trc = tags["primaries"], tags["transfer"]
    if about["aspect"]:
        context.sample_aspect_ratio = Fraction(about["aspect"])
    context.thread_count = encoder_threads()
    output.start_encoding()
    result: VideoStream = stream
    return output, result


def _told(error: Exception) -> str:
    reason = str(getattr(error, "strerror", None) or error)
    log = getattr(error, "log", None)
    said = f": {log[2].strip()}" if log else ""
    return masked(f"{reason}{said}")
