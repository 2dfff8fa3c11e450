# SPDX-License-Identifier: Apache-2.0
"""FFmpeg's pictures as frames, without a copy where one of our four formats fits; and frames as its pictures."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

from crispstream.errors import InputError
from crispstream.frame import ColorSpec, Frame, Matrix, PixelFormat, Plane, Range, plane_shapes
from crispstream.tags import VideoTags

# Formats whose codes are ours already. The "j" formats are FFmpeg's old way to say full range.
DIRECT = {
    "yuv420p": PixelFormat.I420,
    "yuvj420p": PixelFormat.I420,
    "nv12": PixelFormat.NV12,
    "rgb24": PixelFormat.RGB24,
    "bgr24": PixelFormat.BGR24,
}
# Transfer functions that spread 10 bits over a wide range of light (ITU-T H.273; ITU-R BT.2100-2).
_HDR = {16: "PQ", 18: "HLG"}
_ALPHA = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16")
FFMPEG_NAME = {
    PixelFormat.BGR24: "bgr24",
    PixelFormat.RGB24: "rgb24",
    PixelFormat.NV12: "nv12",
    PixelFormat.I420: "yuv420p",
}
# Without these flags swscale is up to two levels too dark and repeats chroma samples.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# swscale's numbers for the matrices; 5 is BT.601.
_MATRIX = {Matrix.BT601: 5, Matrix.BT709: 1, Matrix.BT2020: 9}


def change_of(format_name: str) -> str | None:
    """One sentence about what a picture of this FFmpeg format loses; None where nothing is lost."""
    if format_name in DIRECT:
        return None
    kept = "24-bit RGB" if _target(VideoFormat(format_name)) == "rgb24" else "8-bit YUV 4:2:0"
    alpha = " and without its transparency" if format_name.startswith(_ALPHA) else ""
    return f"pixel format {format_name} is processed as {kept}{alpha}"


def refuse_hdr(name: object, format_name: str, transfer: int) -> None:
    """Raise InputError for PQ or HLG of more than 8 bits."""
    if transfer in _HDR and max(c.bits for c in VideoFormat(format_name).components) > 8:
        raise InputError(
            f"{name} is HDR ({_HDR[transfer]}, {format_name}), which shows bands when it is processed at 8 bits",
            "add --allow-8bit to do it all the same, or convert it to SDR first",
        )


def to_direct(picture: VideoFrame, full_range: bool, reformatter: VideoReformatter) -> VideoFrame:
    """The picture in a format of ``DIRECT``; the codes keep their matrix and range."""
    if picture.format.name in DIRECT:
        return picture
    # Both ranges are named: left to itself the scaler takes "unspecified" differently for different formats.
    code_range = 2 if full_range or picture.format.is_rgb or picture.format.has_palette else 1
    target = _target(picture.format)
    return reformatter.reformat(
        picture, format=target, src_color_range=code_range, dst_color_range=code_range, threads=1
    )


def tags_of(
    picture: VideoFrame, chroma_location: int, sample_aspect_ratio: Fraction | None, before: VideoTags | None = None
) -> VideoTags:
    """What a decoded picture says of itself, and what only its stream says: siting and pixel aspect.

    ``before``: tags of the stream's picture before, whose display matrix holds on where this one is not turned: some
    decoders put it on the first picture only. Asking every picture would keep each alive until Python's collector
    comes: PyAV's side data and picture hold one another.
    """
    color_range = int(picture.color_range)
    if color_range == 0 and picture.format.name.startswith(("yuvj", "gray")):
        color_range = 2  # what FFmpeg takes these formats for
    if before is not None and picture.rotation == 0:
        display_matrix = before.display_matrix
    else:
        matrix = np.frombuffer(side_data(picture, "DISPLAYMATRIX") or b"", np.int32)
        display_matrix = tuple(int(x) for x in matrix) if matrix.size == 9 else None
    return VideoTags(
        matrix=int(picture.colorspace),
        range=color_range,
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        chroma_location=chroma_location,
        sample_aspect_ratio=sample_aspect_ratio or None,
        display_matrix=display_matrix,
    )


def side_data(picture: VideoFrame, kind: str) -> bytes | None:
    """Side data of a picture by FFmpeg's name; None where there is none."""
    try:
        return bytes(picture.side_data[kind])  # type: ignore[literal-required]
    except (KeyError, ValueError):  # ValueError: side data of a kind that PyAV does not know
        return None


def frame_of(picture: VideoFrame, tags: VideoTags, reformatter: VideoReformatter, discontinuity: bool = False) -> Frame:
    """A decoded picture as a frame that carries ``tags``; read-only views where one of our formats fits."""
    picture = to_direct(picture, tags.range == 2, reformatter)
    pixel_format = DIRECT[picture.format.name]
    return Frame(
        planes=planes_of(picture),
        format=pixel_format,
        color=tags.color(picture.height) if pixel_format.is_yuv else ColorSpec(range=Range.FULL),
        pts=picture.pts,
        time_base=picture.time_base,
        duration=picture.duration or None,
        discontinuity=discontinuity,
        info={"video_tags": tags},
    )


def planes_of(picture: VideoFrame) -> tuple[Plane, ...]:
    """The planes of a picture in a format of ``DIRECT``, as read-only views."""
    shapes = plane_shapes(DIRECT[picture.format.name], picture.width, picture.height)
    return tuple(_view(plane, shape) for plane, shape in zip(picture.planes, shapes, strict=True))


def as_picture(frame: Frame) -> VideoFrame:
    """A copy of the frame's pixels as FFmpeg's picture of the same format."""
    picture = VideoFrame(frame.width, frame.height, FFMPEG_NAME[frame.format])
    for plane, samples in zip(picture.planes, frame.planes, strict=True):
        inner = samples.strides[1:]
        np.ndarray(samples.shape, np.uint8, memoryview(plane), strides=(plane.line_size, *inner))[:] = samples
    return picture


def converted(frame: Frame, pixel_format: PixelFormat, reformatter: VideoReformatter) -> Frame:
    """The frame in ``pixel_format``: RGB becomes limited BT.709, YUV is read by its own matrix and range."""
    if frame.format is pixel_format:
        return frame
    picture = as_picture(frame)
    ours = frame.color if frame.format.is_yuv else ColorSpec()
    matrix, code_range = _MATRIX[ours.matrix], 2 if ours.range is Range.FULL else 1
    picture = reformatter.reformat(
        picture,
        format=FFMPEG_NAME[pixel_format],
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=code_range if frame.format.is_yuv else 2,
        dst_color_range=code_range if pixel_format.is_yuv else 2,
        interpolation=_EXACT,
        threads=1,
    )
    color = ours if pixel_format.is_yuv else ColorSpec(range=Range.FULL)
    info = dict(frame.info)
    if not pixel_format.is_yuv:
        info.pop("video_tags", None)
    elif not frame.format.is_yuv:
        # Primaries and transfer stay true: only the matrix was applied.
        tags = replace(VideoTags.of(frame), matrix=1, range=1, chroma_location=1)
        info["video_tags"], color = tags, tags.color(frame.height)
    return Frame(planes_of(picture), pixel_format, color, frame.pts, frame.time_base, frame.duration, info=info)


def _target(format: VideoFormat) -> str:
    return "rgb24" if format.is_rgb or format.has_palette else "yuv420p"


def _view(plane: VideoPlane, shape: tuple[int, ...]) -> Plane:
    """The plane as a read-only array of ``shape``; no copy, except of a picture stored bottom-up."""
    pitch = plane.line_size
    samples = shape[2] if len(shape) == 3 else 1
    inner = (samples, 1) if len(shape) == 3 else (1,)
    offset = 0 if pitch > 0 else -pitch * (shape[0] - 1)
    view: Plane = np.ndarray(shape, np.uint8, buffer=memoryview(plane), offset=offset, strides=(pitch, *inner))
    if pitch < 0:
        view = np.ascontiguousarray(view)
    # The decoder predicts later frames from this memory.
    view.flags.writeable = False
    return view
