# SPDX-License-Identifier: Apache-2.0
"""Video in, video out: what a run must keep, read back from the file it wrote."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ODD_TIMES, TICK, Identity, fill, pattern, read_clip, write_clip
from PIL import Image

from crispstream import run
from crispstream.errors import OutputError, UsageError
from crispstream.frame import ChromaSiting, Frame, Matrix, PixelFormat, Range
from crispstream.sources.video import VideoSource

ROTATED = [0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824]
MIRRORED = [-65536, 0, 0, 0, 65536, 0, 0, 0, 1073741824]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_counts_times_and_size_are_kept(tmp_path: Path, suffix: str) -> None:
    source = read_clip(write_clip(tmp_path / f"in{suffix}", frames=30))
    report = run(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", deblurrer=Identity())
    result = read_clip(tmp_path / f"out{suffix}")
    assert (result.pts, result.time_base, result.size) == (source.pts, source.time_base, source.size)
    assert np.abs(np.subtract(result.corners, source.corners)).max() <= 2  # order: every corner is its frame number
    assert (report.frames, report.width, report.height, report.encoder) == (30, 64, 48, "h264")
    assert report.warnings == [] and report.skipped == [] and not report.interrupted
    assert result.codec == "h264"
    assert json.loads(json.dumps(report.to_dict()))["frames"] == 30
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"in{suffix}", f"out{suffix}"])


def test_variable_frame_rate_is_kept_to_the_tick(tmp_path: Path) -> None:
    source = read_clip(write_clip(tmp_path / "in.mp4", pts=ODD_TIMES))
    assert source.pts == ODD_TIMES
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert (result.pts, result.time_base) == (ODD_TIMES, TICK)


@pytest.mark.parametrize("encoder", ["h264", "hevc", "vp9", "mpeg4"])
def test_the_last_frame_lasts_as_long_as_the_others(tmp_path: Path, encoder: str) -> None:
    frame = b"FRAME\n" + bytes(64 * 64 * 3 // 2)
    (tmp_path / "in.y4m").write_bytes(b"YUV4MPEG2 W64 H64 F10:1 C420jpeg\n" + 15 * frame)
    source = tmp_path / "in.y4m"
    for name in ("first.mp4", "second.mp4"):  # the second from what the first says of its frames
        run(source, tmp_path / name, deblurrer=Identity(), encoder=encoder)
        source = tmp_path / name
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            assert stream.duration is not None and stream.time_base is not None
            assert stream.duration * stream.time_base == Fraction(3, 2)
            assert stream.average_rate == 10


@pytest.mark.parametrize("time_base", [Fraction(1, 30000), Fraction(1, 90000), Fraction(1, 1000000)])
def test_the_clock_is_kept(tmp_path: Path, time_base: Fraction) -> None:
    times = [int(i * Fraction(1001, 30000) / time_base) for i in range(12)]
    write_clip(tmp_path / "in.mp4", pts=times, time_base=time_base)
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert (result.pts, result.time_base) == (times, time_base)


def test_a_late_start_is_kept(tmp_path: Path) -> None:
    times = [40_000 + 512 * i for i in range(12)]
    write_clip(tmp_path / "in.mp4", pts=times)
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    assert read_clip(tmp_path / "out.mp4").pts == read_clip(tmp_path / "in.mp4").pts == times


def test_a_coarser_clock_is_told(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", pts=ODD_TIMES)
    report = run(tmp_path / "in.mp4", tmp_path / "out.mkv", deblurrer=Identity())
    assert report.warnings == ["timestamps are rounded to 1/1000 s, the clock of matroska"]
    result = read_clip(tmp_path / "out.mkv").times
    assert max(abs(a - b * TICK) for a, b in zip(result, ODD_TIMES, strict=True)) <= Fraction(1, 2000)


COLORS = [
    ((5, 1, 5, 6), "left", Matrix.BT601, Range.LIMITED, ChromaSiting.LEFT),
    ((6, 2, 6, 6), "center", Matrix.BT601, Range.FULL, ChromaSiting.CENTER),
    ((1, 1, 1, 1), "left", Matrix.BT709, Range.LIMITED, ChromaSiting.LEFT),
    ((1, 2, 1, 13), "center", Matrix.BT709, Range.FULL, ChromaSiting.CENTER),
    ((9, 1, 9, 16), "topleft", Matrix.BT2020, Range.LIMITED, ChromaSiting.LEFT),
    ((2, 0, 2, 2), "left", Matrix.BT601, Range.LIMITED, ChromaSiting.LEFT),
]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("color", "location", "matrix", "code_range", "siting"), COLORS)
def test_color_is_read_and_written(
    tmp_path: Path,
    suffix: str,
    color: tuple[int, int, int, int],
    location: str,
    matrix: Matrix,
    code_range: Range,
    siting: ChromaSiting,
) -> None:
    write_clip(tmp_path / f"in{suffix}", color=color, location=location)
    frame = next(iter(VideoSource(tmp_path / f"in{suffix}")))
    assert (frame.color.matrix, frame.color.range, frame.color.siting) == (matrix, code_range, siting)
    assert (frame.color.primaries, frame.color.transfer) == color[2:]
    run(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", deblurrer=Identity())
    assert read_clip(tmp_path / f"out{suffix}").color == color
    again = next(iter(VideoSource(tmp_path / f"out{suffix}")))
    assert again.color == frame.color
    assert again.info["video_tags"] == frame.info["video_tags"]


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), Matrix.BT601), ((1280, 720), Matrix.BT709)])
def test_an_unspecified_matrix_goes_by_the_height(tmp_path: Path, size: tuple[int, int], matrix: Matrix) -> None:
    write_clip(tmp_path / "in.mp4", size=size, frames=2)
    assert next(iter(VideoSource(tmp_path / "in.mp4"))).color.matrix is matrix


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
@pytest.mark.parametrize("code_range", [1, 2])
def test_lossless_from_end_to_end(tmp_path: Path, size: tuple[int, int], code_range: int) -> None:
    color = (1, code_range, 1, 1)
    path = write_clip(tmp_path / "in.mkv", size=size, codec="ffv1", content=pattern, color=color)
    run(path, tmp_path / "out.mkv", deblurrer=Identity(), encoder="ffv1")
    source, result = read_clip(path), read_clip(tmp_path / "out.mkv")
    assert result.planes == source.planes
    assert (result.size, result.color) == (size, color)


def test_planes_are_read_only_views_of_the_decoder(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    frame = next(iter(VideoSource(tmp_path / "in.mp4")))
    assert frame.format is PixelFormat.I420
    for plane in frame.planes:
        assert not plane.flags.owndata and not plane.flags.writeable
    assert frame.planes[0][0, 0] == pytest.approx(16, abs=2)


def test_frames_outlive_their_source(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", codec="ffv1", content=pattern)
    source = VideoSource(path)
    frames = list(source)
    source.close()
    assert [f.planes[0].tobytes() for f in frames] == [p[0] for p in read_clip(path).planes]


@pytest.mark.parametrize(
    ("pixel_format", "expected"),
    [
        ("yuv422p", PixelFormat.I420),
        ("yuv444p", PixelFormat.I420),
        ("yuv420p10le", PixelFormat.I420),
        ("gray", PixelFormat.I420),
        ("bgr0", PixelFormat.RGB24),
    ],
)
def test_other_pixel_formats_are_converted_and_told(tmp_path: Path, pixel_format: str, expected: PixelFormat) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for index in range(3):
            grey = av.VideoFrame(64, 48, "gray")
            fill(grey, index)
            output.mux(stream.encode(grey.reformat(format=pixel_format, src_color_range=2, dst_color_range=2)))
        output.mux(stream.encode(None))
    source = VideoSource(path)
    frames = list(source)
    assert [f.format for f in frames] == [expected] * 3
    assert [int(f.planes[0][4, 4].min()) for f in frames] == pytest.approx([16, 17, 18], abs=1)
    assert len(source.warnings) == 1 and pixel_format in source.warnings[0]
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert report.frames == 3 and source.warnings[0] in report.warnings


def test_full_range_codes_survive_conversion(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv444p", color=(1, 2, 1, 1), content=pattern, frames=2
    )
    frame = next(iter(VideoSource(path)))
    assert frame.color.range is Range.FULL
    assert frame.planes[0].tobytes() == read_clip(path).planes[0][0]


def test_rgb_is_written_as_tagged_yuv(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        red = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (200, 30, 40), np.uint8), "rgb24")
        output.mux(stream.encode(red))
        output.mux(stream.encode(None))
    run(path, tmp_path / "out.mp4", deblurrer=Identity(), crf=4)
    result = read_clip(tmp_path / "out.mp4")
    assert result.color[:2] == (1, 1)
    # ITU-R BT.709-6, limited range: Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B) / 255
    assert result.corners[0] == pytest.approx(16 + 219 * (0.2126 * 200 + 0.7152 * 30 + 0.0722 * 40) / 255, abs=2)
    run(path, tmp_path / "same.mkv", deblurrer=Identity(), encoder="ffv1")
    assert read_clip(tmp_path / "same.mkv").planes == read_clip(path).planes


def test_odd_sizes_are_padded_with_the_last_row_and_column(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", size=(63, 47), codec="ffv1")
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(), crf=0)
    result, source = read_clip(tmp_path / "out.mp4"), read_clip(path)
    assert (result.size, result.pixel_format) == ((64, 48), "yuv420p")
    luma = np.frombuffer(result.planes[3][0], np.uint8).reshape(48, 64)
    before = np.frombuffer(source.planes[3][0], np.uint8).reshape(47, 63)
    assert np.array_equal(luma, np.pad(before, ((0, 1), (0, 1)), mode="edge"))
    assert result.planes[3][1:] == source.planes[3][1:]
    assert report.warnings == ["63x47 is odd: padded to 64x48, --odd 444 keeps the size"]


def test_odd_sizes_are_kept_as_444_where_asked(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", size=(63, 47), codec="ffv1")
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(), odd="444")
    result = read_clip(tmp_path / "out.mp4")
    assert (result.size, result.pixel_format) == ((63, 47), "yuv444p")
    assert report.warnings == ["63x47 is odd: written as 4:4:4, which few players show"]


@pytest.mark.parametrize(
    ("encoder", "suffix", "codec"),
    [("hevc", ".mp4", "hevc"), ("mpeg4", ".mp4", "mpeg4"), (None, ".webm", "vp9"), ("ffv1", ".mkv", "ffv1")],
)
def test_other_encoders(tmp_path: Path, encoder: str | None, suffix: str, codec: str) -> None:
    times = [40 * i for i in range(12)]
    source = write_clip(tmp_path / "in.mkv", size=(96, 64), time_base=Fraction(1, 1000), pts=times)
    report = run(source, tmp_path / f"out{suffix}", deblurrer=Identity(), encoder=encoder)
    result = read_clip(tmp_path / f"out{suffix}")
    assert result.codec.removeprefix("lib") in (codec, "dav1d", f"{codec}-vp9", "vpx-vp9")
    assert result.times == [Fraction(40 * i, 1000) for i in range(12)]
    assert report.encoder == (encoder or "vp9")


def test_a_size_the_encoder_does_not_take_is_told(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", size=(34, 18))
    with pytest.raises(OutputError, match="hevc takes frames from 64x64 up"):
        run(source, tmp_path / "out.mp4", deblurrer=Identity(), encoder="hevc")
    source = write_clip(tmp_path / "in.ts")
    with pytest.raises(OutputError, match="cannot write") as caught:  # MPEG-4 part 2 counts time in 16 bits
        run(source, tmp_path / "out.mp4", deblurrer=Identity(), encoder="mpeg4")
    assert "try --encoder h264" in caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", "in.ts"]


def test_the_best_quality_of_mpeg4(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", frames=2)
    report = run(source, tmp_path / "out.mkv", deblurrer=Identity(), encoder="mpeg4", crf=0)
    assert report.frames == len(read_clip(tmp_path / "out.mkv").pts) == 2


def test_quality_is_passed_on(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", codec="ffv1", content=pattern)
    for crf in (10, 40):
        run(source, tmp_path / f"{crf}.mp4", deblurrer=Identity(), crf=crf, speed="ultrafast")
    assert (tmp_path / "40.mp4").stat().st_size < 0.5 * (tmp_path / "10.mp4").stat().st_size


@pytest.mark.parametrize("matrix", [ROTATED, MIRRORED])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_rotation_is_kept(tmp_path: Path, suffix: str, matrix: list[int]) -> None:
    source = read_clip(write_clip(tmp_path / f"in{suffix}", matrix=matrix))
    run(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", deblurrer=Identity())
    result = read_clip(tmp_path / f"out{suffix}")
    assert source.rotation in (90, -90, 180, -180)
    assert (result.rotation, result.matrix, result.size) == (source.rotation, source.matrix, source.size)


def test_rotation_crosses_containers_or_is_named(tmp_path: Path) -> None:
    source = read_clip(write_clip(tmp_path / "in.mp4", matrix=ROTATED))
    assert run(tmp_path / "in.mp4", tmp_path / "out.mkv", deblurrer=Identity()).skipped == []
    assert read_clip(tmp_path / "out.mkv").matrix == source.matrix
    run(tmp_path / "in.mp4", tmp_path / "out.webm", deblurrer=Identity())
    assert read_clip(tmp_path / "out.webm").matrix == source.matrix


def test_aspect_ratio_and_metadata_are_kept(tmp_path: Path) -> None:
    told = {"title": "A walk", "artist": "Nobody", "creation_time": "2017-09-26T16:57:49.000000Z"}
    write_clip(tmp_path / "in.mp4", aspect=Fraction(4, 3), metadata=told)
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert result.aspect == Fraction(4, 3)
    assert {k: result.metadata[k] for k in told} == told


def test_quicktime_keys_are_kept(tmp_path: Path) -> None:
    told = {"com.example.camera": "left"}
    write_clip(tmp_path / "in.mov", metadata=told, container={"movflags": "use_metadata_tags"})
    run(tmp_path / "in.mov", tmp_path / "out.mov", deblurrer=Identity())
    assert read_clip(tmp_path / "out.mov").metadata["com.example.camera"] == "left"


@pytest.mark.parametrize(
    ("suffix", "audio", "subtitles"),
    [(".mp4", "aac", "mov_text"), (".mkv", "aac", "subrip"), (".mkv", "libopus", "subrip"), (".ts", "aac", None)],
)
def test_other_streams_are_copied_bit_for_bit(tmp_path: Path, suffix: str, audio: str, subtitles: str | None) -> None:
    path = write_clip(tmp_path / f"in{suffix}", frames=60, audio=audio, subtitles=subtitles)
    report = run(path, tmp_path / f"out{suffix}", deblurrer=Identity())
    source, result = read_clip(path), read_clip(tmp_path / f"out{suffix}")
    assert [s["type"] for s in result.streams] == [s["type"] for s in source.streams]
    for index in range(1, len(source.streams)):
        assert result.packets[index] == source.packets[index]
        for stream in (source.streams[index], result.streams[index]):
            stream["metadata"].pop("DURATION", None)  # Matroska's own, from packet durations it does not store
        assert result.streams[index] == source.streams[index]
    assert len(source.packets[1]) > 50
    assert result.times == source.times
    assert report.skipped == []


def test_sound_that_starts_before_zero(tmp_path: Path) -> None:
    source = read_clip(write_clip(tmp_path / "in.mp4", audio="aac"))
    assert source.packets[1][0][0] == -1024  # the encoder's delay
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity())
    assert read_clip(tmp_path / "out.mp4").packets[1] == source.packets[1]
    report = run(tmp_path / "in.mp4", tmp_path / "out.mkv", deblurrer=Identity())
    assert report.warnings == ["all streams start 0.021 s later: matroska cannot start below 0"]
    result = read_clip(tmp_path / "out.mkv")
    assert [p[2] for p in result.packets[1]] == [p[2] for p in source.packets[1]]
    assert result.times == [t + Fraction(21, 1000) for t in source.times]


def test_data_stays_in_its_kind_of_container(tmp_path: Path) -> None:
    path = tmp_path / "in.ts"
    with av.open(str(path), "w") as output:
        film = output.add_stream("libx264", rate=25, width=64, height=48)
        data = output.add_data_stream("klv")
        for index in range(10):
            picture = av.VideoFrame(64, 48, "yuv420p")
            fill(picture, index)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(film.encode(picture))
            packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes([index]) * 30)
            packet.stream, packet.time_base = data, Fraction(1, 90000)
            packet.pts = packet.dts = index * 3600
            output.mux(packet)
        output.mux(film.encode(None))
    source = read_clip(path)
    assert run(path, tmp_path / "out.ts", deblurrer=Identity()).skipped == []
    assert read_clip(tmp_path / "out.ts").packets[1] == source.packets[1]
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert report.skipped == ["stream 1 (data, klv): mp4 cannot hold it"]


def test_a_timecode_track_is_made_anew(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mov"), "w") as output:
        film = output.add_stream("libx264", rate=25, width=64, height=48)
        film.metadata["timecode"] = "01:02:03:04"
        picture = av.VideoFrame(64, 48, "yuv420p")
        fill(picture, 0)
        output.mux(film.encode(picture))
        output.mux(film.encode(None))
    source = read_clip(tmp_path / "in.mov")
    report = run(tmp_path / "in.mov", tmp_path / "out.mov", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mov")
    assert [s["type"] for s in source.streams] == ["video", "data"]
    assert [s["metadata"].get("timecode") for s in result.streams] == ["01:02:03:04"] * 2
    assert result.packets[1] == source.packets[1]
    assert report.skipped == []


def test_an_alternative_film_and_a_cover_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as output:
        films = [output.add_stream("libx264", rate=25, width=64, height=48) for _ in range(2)]
        cover = output.add_mux_stream("mjpeg", width=8, height=8, time_base=Fraction(1, 90000))
        cover.disposition = av.stream.Disposition.attached_pic
        for index in range(10):
            for film in films:
                picture = av.VideoFrame(64, 48, "yuv420p")
                fill(picture, index)
                output.mux(film.encode(picture))
        for film in films:
            output.mux(film.encode(None))
        jpeg = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(jpeg, "JPEG")
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        output.mux(packet)
    source = read_clip(path)
    assert run(path, tmp_path / "out.mp4", deblurrer=Identity()).skipped == []
    result = read_clip(tmp_path / "out.mp4")
    assert [s["disposition"] for s in result.streams] == [s["disposition"] for s in source.streams]
    assert [p[2] for p in result.packets[1]] == [p[2] for p in source.packets[1]]
    assert [p[2] for p in result.packets[2]] == [jpeg.getvalue()]
    report = run(path, tmp_path / "out.mkv", deblurrer=Identity())
    assert report.skipped == []
    copy = read_clip(tmp_path / "out.mkv")
    assert copy.streams[2]["disposition"] == int(av.stream.Disposition.attached_pic)
    assert [p[2] for p in copy.packets[2]] == [jpeg.getvalue()]
    report = run(path, tmp_path / "out.mov", deblurrer=Identity())
    assert report.skipped == ["stream 2 (video, mjpeg): mov cannot hold it"]


def test_a_stream_without_times_counts_frames(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", frames=10)
    with av.open(str(tmp_path / "in.mp4")) as source, av.open(str(tmp_path / "in.h264"), "w", format="h264") as raw:
        stream = raw.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                raw.mux(packet)
    report = run(tmp_path / "in.h264", tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert report.frames == len(result.times) == 10
    assert {b - a for a, b in zip(result.times, result.times[1:], strict=False)} == {Fraction(1, 25)}


def test_times_that_repeat_keep_every_frame(tmp_path: Path) -> None:
    class Stutter(Identity):
        def process(self, frame: Frame) -> Frame:
            frame = super().process(frame)
            return replace(frame, pts=512 * 5) if self.seen in (6, 7) else frame

    write_clip(tmp_path / "in.mp4")
    report = run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Stutter())
    assert report.warnings == ["timestamps that do not increase were moved by one tick"]
    assert read_clip(tmp_path / "out.mp4").pts[4:8] == [512 * 4, 512 * 5, 512 * 5 + 1, 512 * 7]


def test_attachments_are_copied(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", attachment=True)
    run(path, tmp_path / "out.mkv", deblurrer=Identity())
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.attachments[0].data == b"not really a font" * 9
        assert container.streams.attachments[0].metadata["filename"] == "font.ttf"


def test_chapters_are_copied(tmp_path: Path) -> None:
    chapters = [
        {"id": i, "start": 200 * i, "end": 200 * i + 200, "time_base": Fraction(1, 1000), "metadata": {"title": f"{i}"}}
        for i in range(2)
    ]
    with av.open(str(tmp_path / "in.mkv"), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        output.set_chapters(chapters)
        for index in range(10):
            picture = av.VideoFrame(64, 48, "yuv420p")
            fill(picture, index)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    run(tmp_path / "in.mkv", tmp_path / "out.mkv", deblurrer=Identity())
    with av.open(str(tmp_path / "in.mkv")) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert [c["metadata"] for c in after.chapters()] == [{"title": "0"}, {"title": "1"}]
        assert after.chapters() == before.chapters()
    report = run(tmp_path / "in.mkv", tmp_path / "out.ts", deblurrer=Identity())
    assert report.skipped == ["chapters: mpegts cannot hold them"]


def test_a_stream_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=30, audio="aac", subtitles="subrip", attachment=True)
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity())
    result = read_clip(tmp_path / "out.mp4")
    assert [s["type"] for s in result.streams] == ["video", "audio"]
    assert [p[2] for p in result.packets[1]] == [p[2] for p in read_clip(path).packets[1]]
    assert report.skipped == [
        "stream 2 (subtitle, srt): mp4 cannot hold it",
        "stream 3 (attachment, font.ttf): mp4 cannot hold it",
    ]


def test_a_changing_frame_size_is_refused(tmp_path: Path) -> None:
    class Shrink(Identity):
        def process(self, frame: Frame) -> Frame:
            frame = super().process(frame)
            half = tuple(p[: p.shape[0] // 2] for p in frame.planes)
            return frame.with_planes(half) if self.seen > 5 else frame

    write_clip(tmp_path / "in.mp4")
    with pytest.raises(OutputError, match="size changes from 64x48 to 64x24"):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Shrink())
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "xyz"}, "unknown encoder"),
        ({"encoder": "ffv1"}, "does not hold ffv1"),
        ({"crf": 99}, "crf 99"),
        ({"speed": "warp"}, "unknown speed"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    write_clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "in.mp4", tmp_path / "out.mp4", deblurrer=Identity(), **arguments)


DATA = os.environ.get("CRISPSTREAM_DATA")
CLIPS = sorted(Path(DATA).glob("clips/*.mp4")) if DATA else []


@pytest.mark.skipif(not CLIPS, reason=f"no clips/*.mp4 in CRISPSTREAM_DATA ({DATA or 'not set'})")
@pytest.mark.parametrize("path", CLIPS, ids=lambda p: p.stem)
def test_real_clips(tmp_path: Path, path: Path) -> None:
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(), speed="ultrafast")
    source, result = read_clip(path), read_clip(tmp_path / "out.mp4")
    assert (result.pts, result.time_base, result.size) == (source.pts, source.time_base, source.size)
    assert (result.color, report.skipped, report.warnings) == (source.color, [], [])
    assert {k: v for k, v in result.packets.items() if k} == {k: v for k, v in source.packets.items() if k}
