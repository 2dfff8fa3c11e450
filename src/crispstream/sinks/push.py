# SPDX-License-Identifier: Apache-2.0
"""A live stream to a server or a receiver: RTSP, RTMP, SRT, MPEG-TS over UDP."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, replace
from fractions import Fraction
from functools import cache
from time import monotonic

import av
from av.video.reformatter import VideoReformatter

from crispstream.convert import converted
from crispstream.errors import UsageError
from crispstream.frame import Frame, PixelFormat
from crispstream.live.addresses import masked, scheme
from crispstream.live.protocol import Shot, Timeouts
from crispstream.orientation import even, upright
from crispstream.sinks.child import Child, ChildSink
from crispstream.sinks.rate import expected_rate
from crispstream.tags import VideoTags

CLOCK = Fraction(1, 90000)
# RTMP's clock: two frames are at least so many ticks apart.
_MILLISECOND = 90
# FFmpeg's muxer, and the encoders that receivers take in it.
_MUXERS = {
    "rtsp": ("rtsp", ("h264", "hevc")),
    "rtsps": ("rtsp", ("h264", "hevc")),
    "rtmp": ("flv", ("h264",)),
    "rtmps": ("flv", ("h264",)),
    "srt": ("mpegts", ("h264", "hevc")),
    "udp": ("mpegts", ("h264", "hevc")),
}
# Bits a pixel at most, where no bit rate is given: at 25 frames a second 0.6 Mbit/s at 640x360 and 5.2 at 1920x1080.
_BITS = 0.1


class PushSink(ChildSink):
    """Encodes what comes out of the engine and sends it to ``url``: low delay, no B frames, a key frame every 2 s.

    ``bitrate``: bits a second at most, None for 0.1 bit a pixel; ``rate``: frames a second, for the rate control,
    None for what the first frame says. It encodes and sends in a process of its own, which is killed where the peer
    answers nothing within the timeouts. A change of size or colour connects again. Raises UsageError.
    """

    def __init__(
        self,
        url: str,
        encoder: str = "h264",
        bitrate: int | None = None,
        rate: Fraction | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.name = masked(url)
        muxer, encoders = _MUXERS.get(scheme(url) or "", ("", ()))
        if not muxer:
            raise UsageError(f"cannot push to {self.name}", f"use {', '.join(f'{s}://' for s in _MUXERS)}")
        if scheme(url) == "srt" and not _has_srt():
            hint = f"crispstream live ... --to - | ffmpeg -i - -c:v libx264 -tune zerolatency -f mpegts '{self.name}'"
            raise UsageError("this build of FFmpeg has no SRT", hint)
        if encoder not in encoders:
            raise UsageError(f"{muxer} does not carry {encoder}", f"use {' or '.join(encoders)}")
        if bitrate is not None and bitrate < 10_000:
            raise UsageError(f"a bit rate of {bitrate} bit/s is too low", "bits a second: 2000000 is 2 Mbit/s")
        self._about = {"url": url, "muxer": muxer, "encoder": encoder}
        self._bitrate = bitrate
        self._rate = rate
        self._timeouts = timeouts or Timeouts()
        self._reformatter = VideoReformatter()
        self._layout: Hashable = None
        self._start, self._last = 0.0, -1

    def write(self, shot: Shot) -> None:
        """Encode and send one frame; the first one connects. Raises OutputError."""
        frame = converted(even(upright(shot.after)), PixelFormat.I420, self._reformatter)
        layout = frame.width, frame.height, VideoTags.of(frame)
        if self._child is not None and layout != self._layout:
            self.close()
        if self._child is None:
            before = monotonic()
            self._child = self._connect(frame, self._rate or expected_rate(shot.after))
            self._layout = layout
            # A gap as long as it took to connect would make players wait that long for ever.
            self._start, self._last = shot.captured + monotonic() - before, -_MILLISECOND
        self._last = max(self._last + _MILLISECOND, round((shot.captured - self._start) / CLOCK))
        self._child.send(frame, self._last)

    def _connect(self, frame: Frame, rate: Fraction) -> Child:
        width, height, tags = frame.width, frame.height, VideoTags.of(frame)
        about = {
            **self._about,
            "width": width,
            "height": height,
            "rate": str(rate),
            "bitrate": self._bitrate or max(100_000, round(_BITS * width * height * rate)),
            "tags": asdict(replace(tags, sample_aspect_ratio=None, display_matrix=None)),
            "aspect": str(tags.sample_aspect_ratio or ""),
            "opening": self._timeouts.open,
            "patience": self._timeouts.read,
        }
        return Child("crispstream.sinks.pusher", about, self.name, self._timeouts.open, self._timeouts.read)


@cache
def _has_srt() -> bool:
    """Whether PyAV's FFmpeg knows the protocol. Nothing is contacted: the address has no port."""
    try:
        av.open("srt://127.0.0.1").close()
    except av.error.ProtocolNotFoundError:
        return False
    except (av.FFmpegError, OSError):
        pass
    return True
