# SPDX-License-Identifier: Apache-2.0
"""Frames into a video file, with the timing, colour and company they came with."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from crispstream.convert import as_picture
from crispstream.errors import OutputError
from crispstream.frame import Frame
from crispstream.orientation import even, upright
from crispstream.sinks.encoders import choose, encoder_threads
from crispstream.sinks.partial import PartialFile
from crispstream.sinks.remux import Remuxer
from crispstream.tags import VideoTags

# FFmpeg's names in the order of VideoTags.chroma_location.
_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
_BT709, _LIMITED = 1, 1
_WITHOUT_ROTATION = ("mpegts",)
# A packet that says nothing (ISO/IEC 13818-1, 2.4.3.3), and how many packets FFmpeg wants to recognise a file by.
_NULL_PACKET = b"\x47\x1f\xff\x10" + b"\xff" * 184
_TS_PACKETS = 11
# Times beyond this, in ticks, run out of 64 bits in the encoders' own sums.
_FARTHEST = 2**62
# Ticks: the longest that MP4 can say.
_LONGEST = 2**31 - 1
_NO_TIMES = "write .y4m, which holds none, and make a film of that"
# Matroska writes clusters whole: what a killed recording loses.
_CLUSTER_MS = 2000
# The finest clock of libvpx.
_VP9_TICKS = 10**9


class VideoSink:
    """Encodes frames to ``path``; the file appears when ``close`` has finished it.

    ``copy_from``: a video file and the index of its film; its other streams, metadata and chapters are copied.
    ``rate``: frames a second, for the encoder's rate control and for frames without a time.
    ``crf``: the encoder's quality, None for its default; ``speed``: one of ``encoders.SPEEDS``.
    ``odd``: an odd size, in a codec whose 4:2:0 is even only, is padded ("pad") or written as 4:4:4 ("444").
    ``live``: what is encoded goes to the disk at once, so that an unfinished Matroska or MPEG-TS file plays.
    ``copied`` names the other streams, ``warnings`` and ``skipped`` say what could not be kept. Raises UsageError and
    OutputError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        copy_from: tuple[Path, int] | None = None,
        rate: Fraction = Fraction(25),
        encoder: str | None = None,
        crf: int | None = None,
        speed: str = "veryfast",
        odd: str = "pad",
        live: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._container, self.encoder = choose(Path(path), encoder)
        self.encoder_name = self.encoder.name
        self._pad, self._live = odd == "pad", live
        self._options = self.encoder.options(crf, speed)
        self._file = PartialFile(path, overwrite)
        self._copy_from = copy_from
        self._rate = rate
        self._reformatter = VideoReformatter()
        self._remuxer: Remuxer | None = None
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._size = (0, 0)
        self._started = False
        self._moved = False
        self._last_pts: int | None = None
        self._time_base = 1 / rate
        self.warnings: list[str] = []
        self.skipped: list[str] = []
        self.copied: list[str] = []

    def write(self, frame: Frame) -> None:
        """Encode one frame. Raises OutputError when the disk, the encoder or a change of size is in the way."""
        try:
            frame = self._fitted(frame)
            if self._output is None or self._stream is None:
                self._output, self._stream = self._open(frame)
            if (frame.width, frame.height) != self._size:
                raise OutputError(
                    f"the frame size changes from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height}",
                    "a video file has one size: cut the input there",
                )
            self._mux(self._stream.encode(self._picture(frame)))
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def hurry(self) -> None:
        """Nothing here waits for others."""

    def close(self, complete: bool = True) -> None:
        """Flush the encoder, copy what is left of the other streams if ``complete``, give the file its name."""
        if self._output is None or self._stream is None:
            return
        try:
            self._mux(self._stream.encode(None))
            if self._remuxer is not None:
                if complete:
                    self._remuxer.copy_until(self._output, None)
                self._remuxer.close()
            self._output.close()
            if self._container == "mpegts":
                self._fill_up()
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._output = None
        self._file.commit()

    def abort(self) -> None:
        """Remove the unfinished file. Idempotent, and without effect after ``close``."""
        if self._remuxer is not None:
            self._remuxer.close()
        if self._output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._output.close()
            self._output = None
        self._file.discard()

    def _open(self, frame: Frame) -> tuple[OutputContainer, VideoStream]:
        self._size = (frame.width, frame.height)
        self._time_base = frame.time_base or 1 / self._rate
        if self.encoder_name == "vp9" and (self._time_base.denominator > _VP9_TICKS or self._time_base > 1):
            raise OutputError(
                f"cannot write {self._file.path}: vp9 knows no clock of {self._time_base} s",
                "write .mkv, or --encoder h264",
            )
        if self._copy_from is not None:
            self._remuxer = Remuxer(*self._copy_from, cut=frame.info.get("cut"))
            self.skipped, self.copied = self._remuxer.skipped, self._remuxer.copied
        options: dict[str, str] = {}
        if self._container in ("mp4", "mov"):
            # These choose a clock of their own unless told; only with the input's are all timestamps exact.
            options["video_track_timescale"] = str(self._time_base.denominator)
            # Their edit lists hide what lies before zero, such as the pictures before a broadcast's clock began anew.
            self._moved = frame.pts is not None and frame.pts < 0
            if self._moved:
                options["avoid_negative_ts"] = "make_non_negative"
            if self._remuxer is not None and self._remuxer.has_quicktime_keys:
                options["movflags"] = "use_metadata_tags"
        if self._live:
            options["flush_packets"] = "1"  # else FFmpeg keeps 256 KiB back, minutes of a still scene
            if self._container in ("matroska", "webm"):
                options["cluster_time_limit"] = str(_CLUSTER_MS)
        output = av.open(
            str(self._file.temporary),
            "w",
            format=self._container,
            container_options=options,
            metadata_errors="surrogateescape",
        )
        self._output = output  # so that abort closes it whatever happens below
        if self._remuxer is None:
            stream = self._add_film(output, frame)
        else:
            stream = self._remuxer.add_streams(output, lambda: self._add_film(output, frame))
        output.start_encoding()
        return output, stream

    def _add_film(self, output: OutputContainer, frame: Frame) -> VideoStream:
        tags = VideoTags.of(frame)
        pixel_format = self.encoder.pixel_format(frame.format, frame.width, frame.height)
        options = {**self._options, "chroma_sample_location": _LOCATIONS[tags.chroma_location]}
        stream: Any = output.add_stream(
            self.encoder.codec,
            rate=self._rate.limit_denominator(65535),
            options=options,
            width=frame.width,
            height=frame.height,
            time_base=self._time_base,
        )
        context = stream.codec_context
        context.pix_fmt = pixel_format
        if frame.format.is_yuv:
            context.colorspace, context.color_range = tags.matrix, tags.range
        elif pixel_format.startswith("yuv"):
            context.colorspace, context.color_range = _BT709, _LIMITED
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if tags.sample_aspect_ratio:
            context.sample_aspect_ratio = tags.sample_aspect_ratio
        context.flags |= Flags.frame_duration  # packets last as long as their frames: MP4 needs it of the last one
        context.thread_type = "AUTO"  # PyAV's own choice, slices, costs quality
        context.thread_count = encoder_threads()
        stream.set_display_matrix(tags.display_matrix)
        if tags.display_matrix and self._container in _WITHOUT_ROTATION:
            self.skipped.append(f"display matrix that is no quarter turn: {self._container} cannot hold it")
        if pixel_format == "yuv444p":
            self.warnings.append(f"{frame.width}x{frame.height} is odd: written as 4:4:4, which few players show")
        result: VideoStream = stream
        return result

    def _fitted(self, frame: Frame) -> Frame:
        """Turned upright where the container cannot say so, and of even size where the codec wants one."""
        tags = VideoTags.of(frame)
        if tags.display_matrix is not None and self._container in _WITHOUT_ROTATION:
            frame = upright(frame)
            if VideoTags.of(frame).display_matrix is None:
                self._warn_once(f"turned in its pixels: {self._container} cannot hold a rotation")
        width, height = frame.width, frame.height
        if self._pad and self.encoder.even_only and (width % 2 or height % 2):
            frame = even(frame)
            self._warn_once(
                f"{width}x{height} is odd: padded to {frame.width}x{frame.height}, --odd 444 keeps the size"
            )
        return frame

    def _picture(self, frame: Frame) -> VideoFrame:
        """The frame as PyAV's, in the encoder's pixel format."""
        stream = self._stream
        assert stream is not None
        context = stream.codec_context
        picture = as_picture(frame)
        if frame.format.is_yuv:
            picture.colorspace, picture.color_range = context.colorspace, context.color_range
        elif context.pix_fmt is not None and context.pix_fmt.startswith("yuv"):
            picture = self._reformatter.reformat(
                picture, format=context.pix_fmt, dst_colorspace=_BT709, dst_color_range=_LIMITED, threads=1
            )
        picture.time_base = self._time_base
        picture.pts = self._next_pts(frame)
        picture.duration = self._duration(frame)
        return picture

    def _duration(self, frame: Frame) -> int:
        """How long a player shows it, should it be the last one, in ticks."""
        ticks = frame.duration or 0
        return ticks if 0 < ticks <= _LONGEST else self._step(self._time_base)

    def _step(self, time_base: Fraction) -> int:
        return max(1, round(1 / (self._rate * time_base)))

    def _next_pts(self, frame: Frame) -> int:
        pts = frame.pts
        if pts is None:
            pts = 0 if self._last_pts is None else self._last_pts + self._step(self._time_base)
        if self._last_pts is not None and pts <= self._last_pts:
            # No container can hold two pictures at one time; a tick later loses nothing that can be seen.
            self._warn_once("timestamps that do not increase were moved by one tick")
            pts = self._last_pts + 1
        if abs(pts) > _FARTHEST:
            raise OutputError(
                f"cannot write {self._file.path}: a frame is due at {pts} ticks of {self._time_base} s",
                f"the times of the input are damaged: {_NO_TIMES}",
            )
        self._last_pts = pts
        stream = self._stream
        if stream is not None and stream.time_base and (pts * self._time_base / stream.time_base).denominator != 1:
            self._warn_once(f"timestamps are rounded to {stream.time_base} s, the clock of {self._container}")
        return pts

    def _mux(self, packets: Iterable[Any]) -> None:
        assert self._output is not None
        for packet in packets:
            if not self._started:
                self._started = True
                self._tell_shift(packet)
            if self._remuxer is not None:
                self._remuxer.copy_until(self._output, packet.dts * packet.time_base)
            # Not all encoders say it, and MP4 hides a last picture of no duration.
            packet.duration = packet.duration or self._step(packet.time_base)
            self._output.mux_one(packet)

    def _tell_shift(self, first: Any) -> None:
        if self._container in ("mp4", "mov") and not self._moved:
            return  # an edit list holds the little that lies before zero
        # Matroska stores presentation times only.
        start = (first.pts if self._container in ("matroska", "webm") else first.dts) * first.time_base
        copied = self._remuxer.next_time if self._remuxer is not None else None
        start = min(start, copied if copied is not None else start)
        if start < 0:
            self.warnings.append(
                f"all streams start {float(-start):.3f} s later: {self._container} cannot start below 0"
            )

    def _fill_up(self) -> None:
        """Make a stream of a few tiny frames as long as a player must see it to know what it is."""
        missing = _TS_PACKETS - self._file.temporary.stat().st_size // len(_NULL_PACKET)
        if missing > 0:
            with self._file.temporary.open("ab") as file:
                file.write(_NULL_PACKET * missing)

    def _warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _failure(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or error
        hint = ""
        if isinstance(error, av.error.PatchWelcomeError):  # MP4 and MOV: more than 2^31 ticks between two frames
            hint = f"the times are further apart than {self._container} can say: choose .mkv"
        elif self._last_pts is None:
            hint = f"does {self.encoder.name} take this size and frame rate? try --encoder h264"
        elif getattr(error, "errno", None) in (errno.EINVAL, errno.EPERM):  # what encoders and muxers call such times
            hint = f"are the times of the input damaged? {_NO_TIMES}"
        return OutputError(f"cannot write {self._file.path} ({reason})", hint)
