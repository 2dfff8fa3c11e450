# SPDX-License-Identifier: Apache-2.0
"""A stream on the network as a live source: RTSP, RTMP, HTTP, UDP and what else FFmpeg was built with."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from time import monotonic
from typing import Any

import av
from av.codec.context import Flags
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from crispstream.convert import change_of, frame_of, tags_of
from crispstream.errors import InputError, UsageError
from crispstream.frame import MAX_SIDE, Frame
from crispstream.live.addresses import NETWORK, masked, scheme
from crispstream.live.protocol import CAPTURED, AccessError, EndOfSource, Timeouts
from crispstream.sources.hardware import accelerator, give_up
from crispstream.sources.pacer import Pacer, wait_until
from crispstream.sources.video import main_video, next_packet
from crispstream.tags import VideoTags
from crispstream.threads import cpu_quota

TRANSPORTS = ("tcp", "udp")

# What lies below the protocols of NETWORK. No file, pipe or concat: a playlist must not read from this machine's disk.
_BELOW = ("crypto", "ffrtmphttp", "hls", "httpproxy", "rtmpt", "rtmpts", "srtp", "tls")
_ARRIVAL_TIME_BASE = Fraction(1, 1_000_000)
_CENTER = 2  # FFmpeg's AVCHROMA_LOC_CENTER
# Formats without times, for which FFmpeg invents 25 frames a second.
_TIMELESS = {"mpjpeg", "mjpeg", "h264", "hevc"}
# With so many packets and not one picture, it is the hardware that does not want.
_HOPELESS = 30

_logger = logging.getLogger("crispstream.live")


class NetworkSource:
    """The video of ``url``. Frames come as they are decoded; HLS and recordings over HTTP, being faster, in real time.

    ``transport`` is RTSP's. With ``hardware`` a graphics card decodes where it can. CAPTURED is when the packet
    arrived that completed the picture. Half of the open timeout is for the connection and half for finding the video
    in it. Packets that could not be decoded, or not whole, are ``damaged``. Raises UsageError for what is no stream.
    """

    def __init__(
        self, url: str, timeouts: Timeouts | None = None, transport: str = "tcp", hardware: bool = True
    ) -> None:
        if scheme(url) is None:
            raise UsageError(f"{masked(url)} is no stream", f"a URL begins with one of {', '.join(NETWORK)}, then ://")
        if transport not in TRANSPORTS:
            raise UsageError(f"unknown RTSP transport '{transport}'", f"one of {', '.join(TRANSPORTS)}")
        self.name = masked(url)
        self.dropped = self.damaged = 0
        self._url, self._transport, self._hardware = url, transport, hardware
        self._timeouts = timeouts or Timeouts()
        self._reformatter = VideoReformatter()
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._ready: deque[tuple[Frame, float]] = deque()
        self._pacer: Pacer | None = None
        self._last: float | None = None
        self._next = 0  # the time of a picture that has none
        self._own_clock = self._described = self._gap = self._ends = False
        self._tags: VideoTags | None = None

    def open(self) -> None:
        """Connect and find the video. Raises InputError, and UsageError where FFmpeg has no such protocol."""
        begin = monotonic()
        card = accelerator() if self._hardware else None
        try:
            self._container = self._connect(card)
        except InputError as error:
            if card is None or monotonic() - begin > self._timeouts.open / 2:
                raise
            # Not known whether the card or the stream is to blame: the stream gets a second chance without the card.
            self._container = self._connect(None)
            give_up(str(error))
        names = self._container.format.name.split(",")
        stream = None if "concat" in names else main_video(self._container.streams.video)
        if stream is None:
            raise InputError(f"{self.name} has no video that can be decoded")
        context = stream.codec_context
        context.thread_type = "SLICE"  # whole frames side by side would delay each by the number of threads
        context.thread_count = min(4, cpu_quota())
        context.flags |= Flags.low_delay
        self._stream: VideoStream = stream
        self._packets = self._container.demux()
        self._opened = begin
        self._own_clock = not _TIMELESS.isdisjoint(names)
        # RTSP servers send recordings in real time themselves, and not every one that names a length has one.
        web = scheme(self._url) in ("http", "https")
        self._ends = web and (self._container.duration or 0) > 0
        self._pacer = Pacer() if self._ends or (web and "hls" in names) else None
        where = "hardware" if context.is_hwaccel else "software"
        _logger.info("%s: %s in %s, decoded in %s", self.name, context.name, names[0], where)

    def read(self) -> Frame | None:
        """The next frame; None where it is not due yet. Raises InputError, EndOfSource after a recording."""
        while not self._ready:
            self._take()
        frame, moment = self._ready[0]
        if self._pacer is not None and not wait_until(moment):
            return None
        self._ready.popleft()
        return replace(frame, info={**frame.info, CAPTURED: moment})

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._ready.clear()
        if self._container is not None:
            self._container.close()
            self._container = None
            self._packets = iter(())
            self._stream = None  # type: ignore[assignment]
            # PyAV's container and streams hold one another. By the time a connection ends they are old, and Python's
            # collector hardly ever looks at what is old: each would leave half a megabyte of FFmpeg's behind.
            gc.collect()

    def _connect(self, card: HWAccel | None) -> InputContainer:
        options = {
            "protocol_whitelist": ",".join((*NETWORK, *_BELOW)),
            "rtsp_transport": self._transport,
            "allowed_media_types": "video",
            # Upper bounds: a stream that describes itself is taken at once. Of RTP over UDP, packets out of order are
            # waited for this long.
            "probesize": "1000000",
            "analyzeduration": "1000000",
            "fpsprobesize": "0",
            "max_delay": "100000",
            "flags": "low_delay",
            "live_start_index": "-1",  # HLS: the newest segment
            "overrun_nonfatal": "1",  # UDP: late is no reason to end
        }
        each, begin = self._timeouts.open / 2, monotonic()
        try:
            return av.open(self._url, options=options, timeout=(each, self._timeouts.read), hwaccel=card)
        except (av.FFmpegError, ValueError, RuntimeError) as error:
            # FFmpeg takes an RTSP server that says nothing for one that says nonsense.
            silent = isinstance(error, av.InvalidDataError) and monotonic() - begin >= each
            failure = self._silence(each) if silent else self._failure(error, each)
        raise failure  # not inside the handler: FFmpeg's error knows the whole URL

    def _take(self) -> None:
        """Wait for the next packet and put what it decodes to into ``_ready``. Raises InputError and EndOfSource."""
        failure: InputError | UsageError | None = None
        begin = monotonic()
        try:
            packet = next_packet(self._packets)
        except av.FFmpegError as error:
            failure = self._failure(error, self._timeouts.read)
        if failure is not None:
            raise failure
        now = monotonic()
        if now - begin >= self._timeouts.read:  # FFmpeg gives what its parsers still hold before it tells
            raise self._silence(self._timeouts.read)
        if packet is None:
            if self._ends:  # a live playlist never says so: its server has gone away
                raise EndOfSource(f"{self.name} has ended")
            raise InputError(f"{self.name} ended the connection")
        if packet.stream.index == self._stream.index:
            for picture in self._decode(packet):
                self._last = now
                self._ready.append(self._frame(picture, now))
        limit = self._timeouts.read if self._last is not None else self._timeouts.open
        if now - (self._last or self._opened) > limit:  # sound may go on where the picture does not
            raise InputError(f"{self.name} sent no picture for {limit:g} s")

    def _decode(self, packet: Packet[Any]) -> list[VideoFrame]:
        try:
            pictures: list[VideoFrame] = packet.decode()
        except av.FFmpegError:
            pictures, broken = [], True
        else:
            broken = packet.is_corrupt or any(p.is_corrupt for p in pictures)
        if broken:
            if not self.damaged:
                _logger.warning("%s: damaged packets are passed over", self.name)
            self.damaged += 1
            self._gap = self._last is not None
            if self.damaged >= _HOPELESS and self._last is None and self._stream.codec_context.is_hwaccel:
                give_up(f"it decodes nothing of {self.name}")
                raise InputError(f"{self.name} cannot be decoded in hardware: next time in software")
        return pictures

    def _frame(self, picture: VideoFrame, arrived: float) -> tuple[Frame, float]:
        """The frame, and when it was taken or is due."""
        if max(picture.width, picture.height) > MAX_SIDE:
            raise InputError(f"{self.name} is {picture.width}x{picture.height}: a side may have {MAX_SIDE} pixels")
        if self._own_clock:
            picture.pts, picture.time_base = round(arrived / _ARRIVAL_TIME_BASE), _ARRIVAL_TIME_BASE
        else:
            time_base = picture.time_base = self._stream.time_base or _ARRIVAL_TIME_BASE
            if picture.pts is None:  # the first picture of most RTSP streams
                picture.pts = self._next
            step = max(1, round(1 / (self._stream.average_rate or 25) / time_base))
            self._next = picture.pts + (picture.duration or step)
        if not self._described:
            self._described = True
            change = change_of(picture.format.name)
            if change is not None:
                _logger.warning("%s: %s", self.name, change)
            if picture.interlaced_frame:
                _logger.warning("%s: the video is interlaced, which shows as combs", self.name)
        # FFmpeg's JPEG decoder alone sites chroma in the middle; PyAV does not tell, and hardly any camera does.
        location = _CENTER if self._stream.codec_context.name == "mjpeg" else 0
        tags = self._tags = tags_of(picture, location, self._stream.sample_aspect_ratio, self._tags)
        frame = frame_of(picture, tags, self._reformatter, self._gap)
        self._gap = False
        return frame, arrived if self._pacer is None else self._pacer.due(frame.seconds or Fraction(0))

    def _failure(self, error: Exception, seconds: float) -> InputError | UsageError:
        """What FFmpeg's error means, without the URL that it carries."""
        reason = masked(str(getattr(error, "strerror", None) or error))
        if isinstance(error, av.ProtocolNotFoundError):
            return UsageError(
                f"{self.name}: this FFmpeg cannot read {scheme(self._url)} streams",
                "let GStreamer read it: crispstream live 'srtsrc uri=srt://HOST:PORT ! decodebin'",
            )
        if isinstance(error, av.ExitError):
            return self._silence(seconds)
        if isinstance(error, (av.HTTPUnauthorizedError, av.HTTPForbiddenError)):
            return AccessError(f"{self.name} wants another user or password ({reason})", "SCHEME://USER:PASSWORD@HOST")
        if isinstance(error, av.InvalidDataError):
            return InputError(f"{self.name} sends no video that can be read ({reason})")
        return InputError(f"{self.name} cannot be read ({reason})")

    def _silence(self, seconds: float) -> InputError:
        return InputError(f"{self.name} sent nothing for {seconds:g} s", "is the sender running?")
