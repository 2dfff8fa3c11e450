# SPDX-License-Identifier: Apache-2.0
"""Pictures in, pictures out: pixels, alpha, EXIF, ICC, greyscale, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import Identity
from PIL import Image, ImageCms, PngImagePlugin

from crispstream import run
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.frame import Frame, PixelFormat, Range
from crispstream.sources.pictures import read_picture

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def exif() -> bytes:
    block = Image.Exif()
    block[0x0112] = 6  # orientation: turn by 90 degrees to show
    block[0x010F] = "Acme"
    return block.tobytes()


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (37, 23), **options: Any) -> np.ndarray[Any, Any]:
    """Smooth waves, so that JPEG keeps them; returns the (H, W, C) samples."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    planes = [127 + 120 * np.sin((x * (c + 1) + y * (3 - c)) / 17) for c in range(CHANNELS[mode])]
    samples = np.stack(planes, axis=2).astype(np.uint8)
    Image.fromarray(samples.squeeze(), mode).save(path, **options)
    return samples


def load(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        samples = np.asarray(picture)
    return samples.reshape(*samples.shape[:2], -1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_png_is_lossless(tmp_path: Path, mode: str) -> None:
    samples = save(tmp_path / "in.png", mode, exif=exif(), icc_profile=ICC, dpi=(72, 72))
    report = run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity())
    with Image.open(tmp_path / "out.png") as result:
        assert result.mode == mode
        assert result.getexif()[0x0112] == 6 and result.getexif()[0x010F] == "Acme"
        assert result.info["icc_profile"] == ICC
        assert result.info["dpi"] == pytest.approx((72, 72), abs=0.1)
    assert np.array_equal(load(tmp_path / "out.png"), samples)
    assert (report.frames, report.width, report.height, report.encoder) == (1, 37, 23, "pillow")


@pytest.mark.parametrize(("suffix", "mode"), [(".jpg", "RGB"), (".jpg", "L"), (".webp", "RGB"), (".webp", "RGBA")])
def test_lossy_formats_keep_their_blocks(tmp_path: Path, suffix: str, mode: str) -> None:
    save(tmp_path / f"in{suffix}", mode, exif=exif(), icc_profile=ICC, quality=98)
    source = load(tmp_path / f"in{suffix}")
    run(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", deblurrer=Identity())
    with Image.open(tmp_path / f"out{suffix}") as result, Image.open(tmp_path / f"in{suffix}") as before:
        assert result.mode == mode
        assert result.info["exif"] == before.info["exif"]
        assert result.info["icc_profile"] == ICC
    result_samples = load(tmp_path / f"out{suffix}").astype(int)
    assert np.abs(result_samples[..., :3] - source[..., :3]).mean() < 2.5
    if mode == "RGBA":
        assert np.array_equal(result_samples[..., 3], source[..., 3])


def test_jpeg_is_written_444_at_the_quality_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "in.png", size=(200, 150))
    sizes = {}
    for quality in (40, 95):
        run(tmp_path / "in.png", tmp_path / f"{quality}.jpg", deblurrer=Identity(), quality=quality)
        sizes[quality] = (tmp_path / f"{quality}.jpg").stat().st_size
        with Image.open(tmp_path / f"{quality}.jpg") as result:
            assert [layer[1:3] for layer in result.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    assert sizes[40] < 0.7 * sizes[95]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_tiff_and_bmp(tmp_path: Path, mode: str) -> None:
    samples = save(tmp_path / "in.tif", mode, icc_profile=ICC)
    run(tmp_path / "in.tif", tmp_path / "out.tif", deblurrer=Identity())
    assert np.array_equal(load(tmp_path / "out.tif"), samples)
    with Image.open(tmp_path / "out.tif") as result:
        assert (result.mode, result.info["icc_profile"]) == (mode, ICC)
    if mode != "RGBA":
        run(tmp_path / "in.tif", tmp_path / "out.bmp", deblurrer=Identity())
        assert np.array_equal(load(tmp_path / "out.bmp"), samples)


def test_a_turned_tiff_comes_upright(tmp_path: Path) -> None:
    samples = save(tmp_path / "in.tif", exif=exif())
    run(tmp_path / "in.tif", tmp_path / "out.tif", deblurrer=Identity())
    assert np.array_equal(load(tmp_path / "out.tif"), np.rot90(samples, 3))
    with Image.open(tmp_path / "out.tif") as result:
        assert result.getexif().get(0x0112, 1) == 1
        assert result.getexif()[0x010F] == "Acme"


def test_palettes_become_colours(tmp_path: Path) -> None:
    save(tmp_path / "rgb.png")
    with Image.open(tmp_path / "rgb.png") as picture:
        palette = picture.quantize(16)
    palette.save(tmp_path / "in.png", transparency=3)
    expected = np.asarray(Image.open(tmp_path / "in.png").convert("RGBA"))
    run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity())
    assert np.array_equal(load(tmp_path / "out.png"), expected)


def test_a_picture_is_a_full_range_rgb_frame(tmp_path: Path) -> None:
    samples = save(tmp_path / "in.png")
    frame = read_picture(tmp_path / "in.png")
    assert (frame.format, frame.color.range, frame.pts) == (PixelFormat.RGB24, Range.FULL, None)
    assert np.array_equal(frame.planes[0], samples)


def test_grey_is_the_mean_of_what_the_network_makes_of_it(tmp_path: Path) -> None:
    class Tint(Identity):
        def process(self, frame: Frame) -> Frame:
            return frame.with_planes((frame.planes[0] // 2 + np.array([3, 6, 9], np.uint8),))

    samples = save(tmp_path / "in.png", "L")
    run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Tint())
    assert np.array_equal(load(tmp_path / "out.png"), samples // 2 + 6)


def test_transparency_needs_a_format_that_holds_it(tmp_path: Path) -> None:
    save(tmp_path / "in.png", "RGBA")
    with pytest.raises(OutputError, match="transparency"):
        run(tmp_path / "in.png", tmp_path / "out.jpg", deblurrer=Identity())
    opaque = Image.open(tmp_path / "in.png")
    opaque.putalpha(255)
    opaque.save(tmp_path / "opaque.png")
    run(tmp_path / "opaque.png", tmp_path / "out.jpg", deblurrer=Identity())
    assert load(tmp_path / "out.jpg").shape == (23, 37, 3)


def png_16_bit() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes(24) for _ in range(4)))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_what_has_no_8_bit_rgb_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rgb16.png").write_bytes(png_16_bit())
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "grey16.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.jpg")
    two = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    two[0].save(tmp_path / "moving.webp", save_all=True, append_images=two[1:])
    for name, reason in [
        ("rgb16.png", "more than 8 bits"),
        ("grey16.png", "more than 8 bits"),
        ("float.tif", "more than 8 bits"),
        ("cmyk.jpg", "stored as CMYK"),
        ("moving.webp", "several pictures"),
    ]:
        with pytest.raises(InputError, match=reason):
            run(tmp_path / name, tmp_path / f"out{Path(name).suffix}", deblurrer=Identity())


def test_damaged_and_huge_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "cut.jpg", size=(300, 200))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated"):
        run(tmp_path / "cut.jpg", tmp_path / "out.jpg", deblurrer=Identity())
    save(tmp_path / "bomb.png", size=(60, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="more than 2000 pixels"):
        run(tmp_path / "bomb.png", tmp_path / "out.png", deblurrer=Identity())
    assert not list(tmp_path.glob("out*"))


def test_a_tiff_whose_next_page_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    directory = int.from_bytes(data[4:8], "little")
    link = directory + 2 + 12 * int.from_bytes(data[directory : directory + 2], "little")
    data[link : link + 4] = len(data).to_bytes(4, "little")
    path.write_bytes(data + struct.pack("<HHHIII", 1, 259, 3, 1, 1, 0))  # one entry: uncompressed
    with pytest.raises(InputError, match=r"in.tif cannot be read \(Missing dimensions\)"):
        run(path, tmp_path / "out.tif", deblurrer=Identity())


@pytest.mark.parametrize("error", [TypeError, struct.error, EOFError, IndexError, OverflowError, SyntaxError])
def test_damage_that_only_decoding_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")

    def fail(self: Image.Image) -> None:
        raise error("short field")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(InputError, match=r"in.png cannot be read \(short field\)"):
        run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity())


def test_a_side_that_the_kernels_do_not_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (32768, 1)).save(tmp_path / "in" / "fits.png")
    Image.new("L", (32769, 1)).save(tmp_path / "in" / "wide.png")
    Image.new("L", (1, 32769)).save(tmp_path / "in" / "tall.png")
    report = run(tmp_path / "in", tmp_path / "out", deblurrer=Identity())
    assert report.frames == 1
    reasons = dict(report.failed)
    assert "is 32769x1: a side may have 32768 pixels at most" in reasons["wide.png"]
    assert "is 1x32769: a side may have 32768 pixels at most" in reasons["tall.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "c.webp"):
        save(folder / name)
    (folder / "notes.txt").write_text("not asked for")
    return folder


def test_a_folder_keeps_names_and_order(tmp_path: Path, folder: Path) -> None:
    seen: list[int] = []
    report = run(folder, tmp_path / "out", deblurrer=Identity(seen.append))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpg", "b.png", "c.webp"]
    assert (report.frames, report.failed, len(seen)) == (3, [], 3)
    assert np.array_equal(load(tmp_path / "out" / "b.png"), load(folder / "b.png"))


def test_unreadable_pictures_are_named_and_skipped(tmp_path: Path, folder: Path) -> None:
    (folder / "bad.png").write_text("no picture")
    report = run(folder, tmp_path / "out", deblurrer=Identity())
    assert report.frames == 3
    assert [name for name, _ in report.failed] == ["bad.png"]
    assert "not a picture" in report.failed[0][1]
    assert not (tmp_path / "out" / "bad.png").exists()


def test_a_folder_of_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        run(tmp_path / "in", tmp_path / "out", deblurrer=Identity())
    (tmp_path / "in" / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match="none of the 1 pictures"):
        run(tmp_path / "in", tmp_path / "out", deblurrer=Identity())


def test_folders_and_files_do_not_mix(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        run(folder, tmp_path / "out.mp4", deblurrer=Identity())
    with pytest.raises(UsageError, match="the output is the input"):
        run(folder, folder, deblurrer=Identity(), overwrite=True)
    with pytest.raises(UsageError, match="cannot write a picture"):
        run(folder / "b.png", tmp_path / "out.mp4", deblurrer=Identity())
    with pytest.raises(UsageError, match="quality 101"):
        run(folder / "b.png", tmp_path / "out.png", deblurrer=Identity(), quality=101)
    with pytest.raises(OutputError, match="cannot make the folder"):
        run(folder, tmp_path / "no" / "out", deblurrer=Identity())


def test_existing_pictures_are_kept_unless_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c.webp").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        run(folder, tmp_path / "out", deblurrer=Identity())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["c.webp"]
    run(folder, tmp_path / "out", deblurrer=Identity(), overwrite=True)
    assert load(tmp_path / "out" / "c.webp").shape == (23, 37, 3)
