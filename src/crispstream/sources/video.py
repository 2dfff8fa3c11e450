# SPDX-License-Identifier: Apache-2.0
"""A video file as frames: decoded by PyAV, not converted where one of our four formats fits."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from crispstream.convert import change_of, frame_of, refuse_hdr, side_data, tags_of
from crispstream.errors import InputError
from crispstream.frame import MAX_SIDE, Frame
from crispstream.tags import VideoTags
from crispstream.threads import cpu_quota

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".m2ts", ".mts", ".avi"),
    *(".wmv", ".flv", ".mpg", ".mpeg", ".3gp", ".ogv"),
)
"""What is taken for a video in a folder."""

_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
_HDR_FIGURES = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
_LOG_LEVEL = threading.Lock()
# The last time that FFmpeg can say, in ticks.
_LATEST = 2**63 - 1
# Shorter than this a missing end is a rounding of durations, not a truncated file.
_END_TOLERANCE = Fraction(1, 2)


class VideoSource:
    """The frames of the first video stream of ``path`` (cover pictures are not counted as one).

    Planes are read-only views of the decoder's memory: write to a copy. Every frame carries its stream's ``VideoTags``
    in ``info["video_tags"]``. ``warnings`` tells, after the last frame, what could not be read or kept.
    Raises InputError when there is nothing to decode, and for HDR of more than 8 bits unless ``allow_8bit``.
    """

    def __init__(self, path: str | os.PathLike[str], allow_8bit: bool = False) -> None:
        self.path = Path(path)
        self._allow_8bit = allow_8bit
        self.warnings: list[str] = []
        try:
            # Absolute, because FFmpeg takes what stands before a colon for a protocol: 10:30.mp4, concat:a.mp4.
            self._container = av.open(os.path.abspath(self.path), metadata_errors="surrogateescape")
        except (av.FFmpegError, ValueError) as error:
            cut = "an MP4 that was cut off has lost its index: record or copy it again"
            hint = "name a file in it" if self.path.is_dir() else cut
            raise InputError(f"{self.path} is not a video that can be read ({_reason(error)})", hint) from error
        if self._container.format.name == "concat":  # a text that names files, which may be anybody's
            self._container.close()
            raise InputError(f"{self.path} is a list of other files, not a video", "join them with ffmpeg first")
        stream = main_video(self._container.streams.video)
        if stream is None:
            self._container.close()
            raise InputError(f"{self.path} has no video stream that can be decoded")
        self._stream = stream
        self.stream_index: int = stream.index
        self.size: tuple[int, int] = (stream.codec_context.width, stream.codec_context.height)
        if max(self.size) > MAX_SIDE:
            self._container.close()
            raise InputError(f"{self.path} is {self.size[0]}x{self.size[1]}: a side may have {MAX_SIDE} pixels at most")
        context = stream.codec_context
        if not allow_8bit and context.pix_fmt is not None:
            try:
                refuse_hdr(self.path, context.pix_fmt, int(context.color_trc))
            except InputError:
                self._container.close()
                raise
        if stream.metadata.get("alpha_mode") == "1":  # in a second stream of VP8 or VP9, beside the pictures
            self.warnings.append("the transparency of the video is lost: the result is opaque")
        context.thread_type = "AUTO"
        context.thread_count = min(4, cpu_quota())
        self._reformatter = VideoReformatter()
        self._chroma_location = _chroma_location(self._container, stream.index)
        self._tags: VideoTags | None = None
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.total: int | None = stream.frames or None
        duration = self._expected_seconds()
        if duration is not None:  # an edit list may hide the pictures that come before the first that is shown
            lasting = round(duration * self.rate)
            self.total = lasting if self.total is None else min(self.total, lasting)

    def __iter__(self) -> Iterator[Frame]:
        end: Fraction | None = None
        damaged = 0
        gap = False
        time_base = self._stream.time_base or 1 / self.rate
        step = max(1, round(1 / (self.rate * time_base)))
        next_pts = 0
        for pictures, broken in self._decode():
            damaged += broken
            gap |= broken
            for picture in pictures:
                if picture.pts is None:
                    picture.pts = next_pts
                picture.time_base = time_base
                next_pts = min(picture.pts + (picture.duration or step), _LATEST)
                end = next_pts * time_base
                yield frame_of(picture, self._read_tags(picture), self._reformatter, gap)
                gap = False
        if damaged:
            self.warnings.append(f"damaged in {damaged} places or truncated: what could be decoded is used")
        expected = self._expected_seconds()
        start = (self._stream.start_time or 0) * time_base
        if end is not None and expected is not None and end - start < expected - _END_TOLERANCE:
            self.warnings.append(
                f"the video ends after {float(end - start):.2f} of {float(expected):.2f} seconds: truncated"
            )
        elif "mp4" in self._container.format.name.split(",") and _ends_inside_a_box(self.path):
            self.warnings.append("the file ends inside an MP4 box: truncated")

    @property
    def start(self) -> Fraction:
        """When the first picture is due, in seconds of the file's own clock."""
        return (self._stream.start_time or 0) * (self._stream.time_base or Fraction(0))

    def seek(self, time: Fraction) -> bool:
        """Go on with the last key picture before ``time`` seconds; False, and nothing is done, where no index leads."""
        stream, containers = self._stream, self._container.format.name.split(",")
        if stream.time_base is None or not {"mp4", "matroska"} & set(containers):
            return False
        try:
            self._container.seek(int(time / stream.time_base), stream=stream)
        except av.FFmpegError:
            return False
        return True

    def close(self) -> None:
        """Close the file. Frames already given out stay valid. Idempotent."""
        self._container.close()

    def _decode(self) -> Iterator[tuple[list[VideoFrame], bool]]:
        """What each packet gives, and whether it was damaged."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next_packet(packets)
            except av.FFmpegError as error:
                self.warnings.append(f"reading stopped early: {_reason(error)}")
                try:
                    last = self._stream.decode(None)
                except av.FFmpegError:
                    last = []
                yield last, True
                return
            if packet is None:
                return
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                yield [], True
                continue
            yield pictures, packet.is_corrupt or any(p.is_corrupt for p in pictures)

    def _read_tags(self, picture: VideoFrame) -> VideoTags:
        tags = tags_of(picture, self._chroma_location, self._stream.sample_aspect_ratio, self._tags)
        if self._tags is None:
            if not self._allow_8bit:
                refuse_hdr(self.path, picture.format.name, tags.transfer)
            change = change_of(picture.format.name)
            if change is not None:
                self.warnings.append(change)
            if any(side_data(picture, kind) for kind in _HDR_FIGURES):
                self.warnings.append("the HDR figures (mastering display, light level) are lost")
            if picture.interlaced_frame:
                self.warnings.append("the video is interlaced; deinterlace it first for a clean result")
        if tags != self._tags:
            self._tags = tags
        return self._tags if self._tags is not None else tags

    def _expected_seconds(self) -> Fraction | None:
        """How long the container says the video stream is; None where it does not say."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        matroska = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)\s*", stream.metadata.get("DURATION", ""))
        if matroska:
            hours, minutes, seconds = matroska.groups()
            return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
        if len(self._container.streams) == 1 and self._container.duration:
            return Fraction(self._container.duration, av.time_base)
        return None


def main_video(streams: tuple[VideoStream, ...]) -> VideoStream | None:
    """The stream that is a film: the first decodable one that is not an attached picture."""
    for stream in streams:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def next_packet(packets: Iterator[Packet[Any]]) -> Packet[Any] | None:
    """The next packet of a demuxer's run; None after the last.

    Where a stream has turned up in the middle of the file, PyAV, which does not know it, fails with an IndexError once
    everything else was given out.
    """
    try:
        return next(packets, None)
    except IndexError:
        return None


def _ends_inside_a_box(path: Path) -> bool:
    """Whether a file of ISO BMFF boxes (ISO/IEC 14496-12, 4.2) is shorter than its last top-level box says.

    Fragments tell no total, so that nothing else shows the loss where the cut fell into another stream's samples.
    """
    if not path.is_file():  # a pipe has been read, and its length is not known
        return False
    size = path.stat().st_size
    start = 0
    with path.open("rb") as file:
        while start < size:
            file.seek(start)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 0:  # up to the end of the file, or zeros as padding
                return False
            if len(header) < (16 if length == 1 else 8):
                return True
            if length == 1:
                length = int.from_bytes(header[8:], "big")
            if length < 8 or not header[4:8].isascii():  # not a box: something was appended
                return False
            start += length
    return start > size


def _chroma_location(container: InputContainer, index: int) -> int:
    """Chroma siting of a stream. PyAV has no attribute for it, but FFmpeg's own description of the stream names it.

    Only a verbose description does, and PyAV cannot read FFmpeg's own log level: it is INFO, FFmpeg's default,
    afterwards. PyAV's level, which decides what is shown, is put back.
    """
    with _LOG_LEVEL:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        av.logging.set_libav_level(av.logging.VERBOSE)
        try:
            description = container.dumps_format()  # type: ignore[attr-defined]  # missing in PyAV's stubs
        finally:
            av.logging.set_libav_level(av.logging.INFO)
            av.logging.set_level(before)
    for line in description.splitlines():
        if re.match(rf"\s*Stream #0:{index}\b", line):
            found = re.search(rf"[(,] ?({'|'.join(_LOCATIONS[1:])})[,)]", line)
            return _LOCATIONS.index(found.group(1)) if found else 0
    return 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
