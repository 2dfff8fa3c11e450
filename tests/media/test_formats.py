# SPDX-License-Identifier: Apache-2.0
"""Sources that our 8-bit 4:2:0 cannot hold as they are: deep, HDR, transparent, turned, of two sizes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from clips import Identity, fill, read_clip, write_clip

from crispstream import run
from crispstream.convert import converted
from crispstream.errors import EarlyEndError, InputError, UsageError
from crispstream.frame import ColorSpec, PixelFormat
from crispstream.sources.video import VideoSource
from crispstream.tags import VideoTags

TURNS = {
    "right": ([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], lambda p: np.rot90(p, -1)),
    "left": ([0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30], lambda p: np.rot90(p, 1)),
    "half": ([-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30], lambda p: np.rot90(p, 2)),
    "mirror": ([-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], lambda p: p[:, ::-1]),
}


def deep_clip(path: Path, transfer: int, pixel_format: str = "yuv420p10le") -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25, width=64, height=48)
        stream.pix_fmt = pixel_format
        stream.codec_context.color_trc = transfer
        for index in range(3):
            grey = av.VideoFrame(64, 48, "gray")
            fill(grey, index)
            deep = grey.reformat(format=pixel_format, src_color_range=2, dst_color_range=2)
            deep.color_trc = transfer
            output.mux(stream.encode(deep))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv422p10le", "yuv444p12le"])
def test_deep_sdr_is_taken_with_one_warning(tmp_path: Path, pixel_format: str) -> None:
    report = run(deep_clip(tmp_path / "in.mkv", 1, pixel_format), tmp_path / "out.mkv", deblurrer=Identity(), crf=0)
    assert report.warnings == [f"pixel format {pixel_format} is processed as 8-bit YUV 4:2:0"]
    assert read_clip(tmp_path / "out.mkv").corners == pytest.approx([16, 17, 18], abs=1)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_deep_hdr_is_taken_only_where_asked(tmp_path: Path, transfer: int, name: str) -> None:
    path = deep_clip(tmp_path / "in.mkv", transfer)
    with pytest.raises(InputError, match=rf"is HDR \({name}, yuv420p10le\)") as caught:
        run(path, tmp_path / "out.mp4", deblurrer=Identity())
    assert "--allow-8bit" in caught.value.hint
    assert not (tmp_path / "out.mp4").exists()
    report = run(path, tmp_path / "out.mp4", deblurrer=Identity(), allow_8bit=True)
    assert len(report.warnings) == 1
    assert read_clip(tmp_path / "out.mp4").color[3] == transfer


def test_hdr_figures_are_named(tmp_path: Path) -> None:
    figures = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    options = {"x265-params": f"log-level=error:hdr10=1:repeat-headers=1:{figures}"}
    path = write_clip(tmp_path / "in.mkv", codec="libx265", color=(9, 1, 9, 16), options=options, frames=3)
    report = run(path, tmp_path / "out.mkv", deblurrer=Identity())
    assert report.warnings == ["the HDR figures (mastering display, light level) are lost"]


def test_hdr_of_8_bits_loses_nothing_here(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", codec="ffv1", color=(9, 1, 9, 16))
    assert run(path, tmp_path / "out.mkv", deblurrer=Identity()).warnings == []


def test_transparency_of_vp9_is_named_and_its_mark_is_not_copied(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.webm"), "w") as output:
        stream = output.add_stream("libvpx-vp9", rate=25, width=64, height=48)
        stream.pix_fmt = "yuva420p"
        for index in range(3):
            picture = av.VideoFrame(64, 48, "yuva420p")
            fill(picture, index)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with av.open(str(tmp_path / "in.webm")) as container:
        assert container.streams.video[0].metadata["alpha_mode"] == "1"
    report = run(tmp_path / "in.webm", tmp_path / "out.webm", deblurrer=Identity())
    assert report.warnings == ["the transparency of the video is lost: the result is opaque"]
    assert "alpha_mode" not in {key.lower() for key in read_clip(tmp_path / "out.webm").streams[0]["metadata"]}


def test_transparency_of_rgba_is_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mov"), "w") as output:
        stream = output.add_stream("png", rate=25, width=64, height=48)
        stream.pix_fmt = "rgba"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 4), 90, np.uint8), "rgba")))
        output.mux(stream.encode(None))
    report = run(tmp_path / "in.mov", tmp_path / "out.mp4", deblurrer=Identity())
    assert report.warnings == ["pixel format rgba is processed as 24-bit RGB and without its transparency"]


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_is_done_to_the_pixels_where_it_cannot_be_told(tmp_path: Path, turn: str) -> None:
    matrix, expected = TURNS[turn]
    source = read_clip(write_clip(tmp_path / "in.mp4", matrix=matrix, size=(64, 48)))
    report = run(tmp_path / "in.mp4", tmp_path / "out.ts", deblurrer=Identity(), crf=0)
    result = read_clip(tmp_path / "out.ts")
    assert "turned in its pixels: mpegts cannot hold a rotation" in report.warnings
    assert report.skipped == []
    for index, (width, height) in enumerate(((64, 48), (32, 24), (32, 24))):
        before = expected(np.frombuffer(source.planes[5][index], np.uint8).reshape(height, width))
        assert result.planes[5][index] == before.tobytes()
    assert result.size == ((64, 48) if turn in ("half", "mirror") else (48, 64))


def test_aspect_ratio_outlives_the_way_from_rgb(tmp_path: Path) -> None:
    color = (0, 2, 9, 13)
    path = write_clip(tmp_path / "in.mp4", codec="libx264rgb", pixel_format="bgr0", aspect=Fraction(4, 3), color=color)
    run(path, tmp_path / "out.y4m", deblurrer=Identity())
    assert b" A4:3 " in (tmp_path / "out.y4m").read_bytes().split(b"\n")[0]
    frame = converted(next(iter(VideoSource(path))), PixelFormat.I420, VideoReformatter())
    assert frame.info["video_tags"] == VideoTags(1, 1, 9, 13, 1, Fraction(4, 3))
    assert frame.color == ColorSpec(primaries=9, transfer=13)


def test_a_slanted_matrix_is_named(tmp_path: Path) -> None:
    slanted = [46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30]
    write_clip(tmp_path / "in.mp4", matrix=slanted)
    report = run(tmp_path / "in.mp4", tmp_path / "out.ts", deblurrer=Identity())
    assert report.skipped == ["display matrix that is no quarter turn: mpegts cannot hold it"]


def two_sizes(path: Path) -> Path:
    one = write_clip(path.with_name("one.ts"), frames=10, size=(64, 48), audio="aac")
    two = write_clip(path.with_name("two.ts"), frames=10, size=(96, 64), audio="aac")
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".y4m"])
def test_another_frame_size_ends_a_film_that_plays(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(EarlyEndError, match="frame 11 is 96x64, those before it are 64x48") as caught:
        run(two_sizes(tmp_path / "in.ts"), tmp_path / f"out{suffix}", deblurrer=Identity())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    result = read_clip(tmp_path / f"out{suffix}")
    assert (len(result.pts), result.size) == (10, (64, 48))


def test_numbered_pictures_take_another_frame_size(tmp_path: Path) -> None:
    report = run(two_sizes(tmp_path / "in.ts"), tmp_path / "out_%02d.png", deblurrer=Identity())
    assert report.frames == len(list(tmp_path.glob("out_*.png"))) == 20


def test_an_unknown_way_with_odd_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="odd sizes"):
        run(write_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", deblurrer=Identity(), odd="crop")
