# SPDX-License-Identifier: Apache-2.0
"""Everything of a video file that is not the film: other streams, metadata, chapters, copied as they are."""

from __future__ import annotations

import contextlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from crispstream.cut import Cut
from crispstream.errors import OutputError

# What a muxer writes of itself, what counted the old packets, and what says that the pictures are transparent.
_STALE = ("major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "alpha_mode", "ALPHA_MODE")
_STALE_PREFIXES = ("_STATISTICS", "BPS", "NUMBER_OF_", "DURATION")
# The sample that ends a line of 3GPP timed text; the muxer writes one wherever a line ends.
_NO_TEXT = bytes(2)
_MP4_FAMILY = ("mp4", "mov")
_PICTURES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


class _Nowhere(io.RawIOBase):
    """A file that keeps nothing of what is written."""

    def __init__(self) -> None:
        self._at = self._size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._at += len(data)
        self._size = max(self._size, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at


class Remuxer:
    """Reads a second time the file that is being deblurred and copies its other packets bit for bit.

    ``film`` is the index of the stream that is encoded anew, ``cut`` what part of the file is copied. ``copied`` names
    what the output holds of the rest, ``skipped`` what it cannot hold. Raises OutputError when the file can no longer
    be opened.
    """

    def __init__(self, path: Path, film: int, cut: Cut | None = None) -> None:
        self._cut = cut or Cut()
        self.skipped: list[str] = []
        self.copied: list[str] = []
        try:
            self._input: InputContainer = av.open(os.path.abspath(path), metadata_errors="surrogateescape")
        except (av.FFmpegError, ValueError) as error:
            raise OutputError(f"{path} could not be opened again to copy its other streams ({error})") from error
        self._film = film
        self._copies: dict[int, Stream] = {}
        self._trials: dict[int, tuple[OutputContainer, Stream]] = {}
        self._packets: Iterator[Packet[Any]] = iter(())
        self._pending: Packet[Any] | None = None
        self._refused: Counter[int] = Counter()
        self._restated: set[int] = set()

    @property
    def has_quicktime_keys(self) -> bool:
        """Whether the metadata has names in reverse-domain style, which MP4 and MOV hold in a table of their own."""
        return any(key.startswith("com.") for key in self._input.metadata)

    def add_streams(self, output: OutputContainer, add_film: Any) -> Any:
        """Create the output's streams in the input's order; ``add_film()`` creates the film's and is returned."""
        film: Any = None
        for stream in self._input.streams:
            if stream.index == self._film:
                film = add_film()
                film.metadata.update({k: v for k, v in stream.metadata.items() if not _is_stale(k)})
                film.disposition = stream.disposition
            elif self._can_hold(output, stream):
                copy = output.add_stream_from_template(stream, opaque=True)
                copy.metadata.update(stream.metadata)
                copy.disposition = stream.disposition
                self._copies[stream.index] = copy
                self.copied.append(_title(stream))
            elif output.format.name == "matroska" and _is_cover(stream) and _codec(stream) in _PICTURES:
                output.add_attachment(*_PICTURES[_codec(stream)], self._cover(stream.index))
                self.copied.append(_title(stream))
            elif not self._is_rebuilt(output, stream):
                self.skipped.append(f"{_title(stream)}: {output.format.name} cannot hold it")
        output.metadata.update({k: v for k, v in self._input.metadata.items() if not _is_stale(k)})
        timecodes = [m.pop("timecode") for m in (film.metadata, output.metadata) if "timecode" in m and self._cut.start]
        if timecodes:
            self.skipped.append("timecode: it counts from the start of the uncut film")
        output.set_chapters(self._cut.chapters(self._input.chapters()))
        if output.format.name == "mpegts" and self._input.chapters():
            self.skipped.append("chapters: mpegts cannot hold them")
        for stream in self._input.streams:
            if stream.index not in self._copies:
                stream.discard = Discard.all
        wanted = [s for s in self._input.streams if s.index in self._copies]
        if wanted:
            self._packets = self._input.demux(wanted)
            self._advance()
        return film

    @property
    def next_time(self) -> Fraction | None:
        """When the next packet is due, in seconds; None when there is no more, or it does not say."""
        if self._pending is None:
            return None
        stamp = self._pending.dts if self._pending.dts is not None else self._pending.pts
        return None if stamp is None else stamp * self._pending.time_base

    def copy_until(self, output: OutputContainer, time: Fraction | None) -> None:
        """Copy the packets that are due before ``time`` seconds; None copies all that are left."""
        while self._pending is not None:
            packet, due = self._pending, self.next_time
            if time is not None and due is not None and due > time:
                return
            index = packet.stream_index
            copy = self._copies[index]
            if not (_codec(copy) == "mov_text" and bytes(packet) == _NO_TEXT):
                try:
                    self._try(packet)
                    packet.stream = copy
                    output.mux_one(packet)
                # Time runs backwards in some recordings, and some are damaged; muxers refuse such packets.
                except (av.ArgumentError, av.InvalidDataError):
                    self._refused[index] += 1
            self._advance()

    def close(self) -> None:
        """Close the input. Idempotent."""
        self._pending = None
        self.skipped += [
            f"stream {i}: {n} packet{'s' * (n != 1)} out of order or damaged" for i, n in sorted(self._refused.items())
        ]
        self.skipped += [f"stream {i}: other settings in the middle of it" for i in sorted(self._restated)]
        self._refused.clear()
        self._restated.clear()
        while self._trials:
            _give_up(self._trials.popitem()[1][0])
        self._input.close()

    def _try(self, packet: Packet[Any]) -> None:
        """Give the packet to a muxer that has its stream alone.

        The one of the output tells some damage only when the packet's turn comes to be written, as if another packet
        were at fault. Raises what that muxer raises.
        """
        trial, stream = self._trials[packet.stream_index]
        times = packet.pts, packet.dts, packet.duration, packet.time_base
        packet.stream = stream
        try:
            trial.mux_one(packet)
        finally:
            packet.pts, packet.dts, packet.duration, packet.time_base = times

    def _advance(self) -> None:
        # The packets without data that end a demuxer's run only flush decoders.
        self._pending = None
        while (packet := self._next()) is not None and not self._cut.is_over(packet):
            if (packet.size or packet.dts is not None) and (_is_cover(packet.stream) or self._cut.take(packet)):
                self._pending = self._without_settings(packet)
                return

    def _next(self) -> Packet[Any] | None:
        """The next packet; None after the last, and where damage, which is told, ends the reading."""
        try:
            return next(self._packets, None)
        except IndexError:  # how PyAV ends where a stream has turned up in the middle of the file
            self.skipped.append("a stream that turns up in the middle of the file")
            return None
        except av.FFmpegError as error:
            self.skipped.append(f"other streams: reading stopped early ({error.strerror})")
            return None

    def _without_settings(self, packet: Packet[Any]) -> Packet[Any]:
        """The packet without a second header for its stream.

        A container holds one, and Matroska's muxer would overwrite it for all that came before.
        """
        context = packet.stream.codec_context
        if not packet.has_sidedata("new_extradata") or context is None or not context.extradata:
            return packet
        bare: Packet[Any] = Packet(bytes(packet))
        bare.stream, bare.time_base = packet.stream, packet.time_base
        bare.pts, bare.dts, bare.duration = packet.pts, packet.dts, packet.duration
        bare.is_keyframe = packet.is_keyframe
        for data in packet.iter_sidedata():
            if data.data_type != "new_extradata":
                bare.set_sidedata(data)
            elif bytes(data) != context.extradata:
                self._restated.add(packet.stream_index)
        return bare

    def _can_hold(self, output: OutputContainer, stream: Stream) -> bool:
        container = output.format.name
        if stream.type == "data":
            # Its meaning is defined by its container, and some muxers would take any bytes.
            if container not in self._input.format.name.split(",") or self._is_rebuilt(output, stream):
                return False
        elif _is_cover(stream) and container != "mp4":
            return False  # it would become a second film, or nothing
        # The only sure way to know is to let the muxer write a header.
        trial = av.open(_Nowhere(), "w", format=container)
        try:
            copy = trial.add_stream_from_template(stream, opaque=True)
            copy.disposition = stream.disposition
            trial.start_encoding()
        except (av.FFmpegError, ValueError):
            _give_up(trial)
            return False
        self._trials[stream.index] = trial, copy
        return True

    def _cover(self, index: int) -> bytes:
        """The bytes of a cover picture; read apart, so that no other packet is lost."""
        with av.open(self._input.name, metadata_errors="surrogateescape") as container:
            return next((bytes(p) for p in container.demux(container.streams[index]) if p.size), b"")

    def _is_rebuilt(self, output: OutputContainer, stream: Stream) -> bool:
        """Whether the muxer makes this stream anew: from the film's timecode entry, or from the chapters."""
        if stream.type != "data":
            return False
        is_timecode = "timecode" in stream.metadata and output.format.name in _MP4_FAMILY
        return is_timecode or (_codec(stream) == "bin_data" and bool(self._input.chapters()))


def others(path: Path, film: int, holder: str) -> list[str]:
    """What a file holds beside its film, one sentence for each, for a ``holder`` that takes pictures alone."""
    with av.open(os.path.abspath(path), metadata_errors="surrogateescape") as container:
        rest = [f"{_title(s)}: {holder} cannot hold it" for s in container.streams if s.index != film]
        return rest + ([f"chapters: {holder} cannot hold them"] if container.chapters() else [])


def _give_up(trial: OutputContainer) -> None:
    with contextlib.suppress(av.FFmpegError):  # without packets some trailers cannot be written
        trial.close()


def _title(stream: Stream) -> str:
    return f"stream {stream.index} ({stream.type}, {_codec(stream) or 'unknown codec'})"


def _codec(stream: Stream) -> str:
    """Its name; "" where FFmpeg has none, and PyAV then not even the attribute."""
    return getattr(stream, "name", None) or ""


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_stale(key: str) -> bool:
    return key in _STALE or key.startswith(_STALE_PREFIXES)
