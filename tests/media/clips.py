# SPDX-License-Identifier: Apache-2.0
"""Small clips made on the spot, clips read back whole, and a deblurrer that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from crispstream.frame import Frame

TICK = Fraction(1, 12800)
STEP = 512  # 25 frames a second at TICK
ODD_TIMES = [0, 512, 700, 1724, 1725, 4000, 4512, 9000, 9100, 9200, 12800, 13000]

NEVER_ZERO = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0:glibc.malloc.perturb=170"}
"""For a process in which PyAV shall fail at late streams: it looks behind the end of a table, and passes over zeros."""

Samples = np.ndarray[Any, np.dtype[np.uint8]]


def pattern(index: int, width: int, height: int) -> Samples:
    """Noise that differs from frame to frame, with 16 + index % 200 in the top left 8x8 corner."""
    noise = np.random.default_rng(index).integers(0, 256, (height, width), np.uint8)
    noise[:8, :8] = 16 + index % 200
    return noise


def smooth(index: int, width: int, height: int) -> Samples:
    """A ramp that moves, with 16 + index % 200 in the top left 16x16 corner; cheap to encode."""
    row = ((np.arange(width) * 2 + 7 * index) % 200 + 20).astype(np.uint8)
    plane = np.repeat(row[None], height, axis=0)
    plane[:16, :16] = 16 + index % 200
    return plane


def fill(picture: VideoFrame, index: int, content: Callable[[int, int, int], Samples] = smooth) -> None:
    """Draw frame ``index`` into a planar 8-bit picture."""
    for plane in picture.planes:
        view = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        view[:, : plane.width] = content(index, plane.width, plane.height)


def write_clip(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (64, 48),
    pts: Sequence[int] | None = None,
    time_base: Fraction = TICK,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    color: tuple[int, int, int, int] = (2, 0, 2, 2),
    location: str = "unspecified",
    content: Callable[[int, int, int], Samples] = smooth,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    audio: str | None = None,
    subtitles: str | None = None,
    attachment: bool = False,
    container: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode ``frames`` frames; ``color`` is (matrix, range, primaries, transfer) in raw code points."""
    times = list(pts) if pts is not None else [STEP * i for i in range(frames)]
    clock = {"video_track_timescale": str(time_base.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options={**clock, **(container or {})}) as output:
        output.metadata.update(metadata or {})
        settings = {"chroma_sample_location": location, **(options or {})}
        stream: Any = output.add_stream(codec, rate=25, options=settings, time_base=time_base)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        if aspect:
            context.sample_aspect_ratio = aspect
        if matrix:
            stream.set_display_matrix(matrix)
        seconds = float(times[-1] * time_base) + 0.04
        extra = []
        if audio:
            extra += audio_packets(output, audio, seconds)
        if subtitles:
            extra += _subtitle_packets(output, subtitles, seconds)
        if attachment:
            output.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font" * 9)
        for index, time in enumerate(times):
            picture = VideoFrame(*size, pixel_format)
            fill(picture, index, content)
            picture.pts, picture.time_base = time, time_base
            picture.colorspace, picture.color_range = color[0], color[1]
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
        output.mux(extra)
    return path


def audio_packets(output: Any, codec: str, seconds: float) -> list[Packet[Any]]:
    """A mono tone in a new stream of ``output``."""
    stream = output.add_stream(codec, rate=48000, layout="mono")
    stream.metadata["language"] = "swe"
    samples = (np.sin(np.arange(int(48000 * seconds)) / 17) * 8000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    resampler = av.AudioResampler(stream.format, stream.layout, 48000, frame_size=1024)
    packets = []
    for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
        packets += stream.encode(piece)
    return packets


def _subtitle_packets(output: Any, codec: str, seconds: float) -> list[Packet[Any]]:
    stream = output.add_mux_stream(codec, time_base=Fraction(1, 1000))
    stream.metadata["language"] = "deu"
    packets = []
    for index in range(3):
        text = f"line {index}".encode()
        packet: Packet[Any] = Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = int(index * seconds * 300)
        packet.duration = 100
        packets.append(packet)
    return packets


def add_late_stream(path: Path) -> None:
    """Put a line of text, which is another stream, at the end of an FLV (Adobe's FLV 10.1, E.4.4)."""
    text = b"\x02\x00\x0aonTextData\x08\x00\x00\x00\x01\x00\x04text\x02\x00\x05hello\x00\x00\x09"
    tag = b"\x12" + len(text).to_bytes(3, "big") + bytes(7) + text
    path.write_bytes(path.read_bytes() + tag + len(tag).to_bytes(4, "big"))


@dataclass
class Clip:
    """All there is to compare of a video file."""

    times: list[Fraction] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    planes: list[tuple[bytes, ...]] = field(default_factory=list)
    corners: list[int] = field(default_factory=list)
    color: tuple[int, int, int, int] = (2, 0, 2, 2)
    size: tuple[int, int] = (0, 0)
    time_base: Fraction | None = None
    rotation: int = 0
    matrix: tuple[int, ...] | None = None
    aspect: Fraction | None = None
    codec: str = ""
    pixel_format: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    streams: list[dict[str, Any]] = field(default_factory=list)
    packets: dict[int, list[tuple[int | None, int | None, bytes]]] = field(default_factory=dict)


def read_clip(path: Path) -> Clip:
    """Decode the video, and take every packet of every stream."""
    clip = Clip()
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        clip.metadata = dict(container.metadata)
        clip.time_base, clip.codec = video.time_base, video.codec_context.name
        clip.aspect = video.sample_aspect_ratio
        for stream in container.streams:
            clip.streams.append(
                {"type": stream.type, "name": stream.name, "metadata": dict(stream.metadata)}
                | {"disposition": int(stream.disposition), "time_base": stream.time_base}
            )
        for picture in container.decode(video):
            clip.times.append(picture.pts * video.time_base)
            clip.pts.append(picture.pts)
            packed = {"bgr0": 4, "rgb24": 3}.get(picture.format.name, 1)
            clip.planes.append(tuple(_rows(plane, packed) for plane in picture.planes))
            clip.corners.append(int(np.frombuffer(memoryview(picture.planes[0]), np.uint8)[0]))
            if len(clip.pts) == 1:
                clip.color = (picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc)
                clip.size, clip.pixel_format = (picture.width, picture.height), picture.format.name
                clip.rotation = picture.rotation
                if picture.rotation:
                    clip.matrix = tuple(np.frombuffer(picture.side_data["DISPLAYMATRIX"], np.int32).tolist())
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                clip.packets.setdefault(packet.stream_index, []).append((packet.pts, packet.dts, bytes(packet)))
    return clip


def _rows(plane: Any, sample_bytes: int) -> bytes:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width * sample_bytes].tobytes()


class Done:
    """A frame that was ready at once."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def result(self) -> Frame:
        return self._frame


class Identity:
    """Stands where a Deblurrer stands and gives back what it gets; ``hook`` sees every frame number first."""

    def __init__(self, hook: Callable[[int], None] = lambda index: None) -> None:
        self.hook = hook
        self.seen = 0

    def submit(self, frame: Frame) -> Done:
        return Done(self.process(frame))

    def open_stream(self) -> Identity:
        return self

    def process(self, frame: Frame) -> Frame:
        self.hook(self.seen)
        self.seen += 1
        return frame.with_planes(tuple(p.copy() for p in frame.planes))
