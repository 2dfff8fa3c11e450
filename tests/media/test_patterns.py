# SPDX-License-Identifier: Apache-2.0
"""Pictures by pattern, in and out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import Identity, read_clip, write_clip
from PIL import Image

from crispstream import run
from crispstream.errors import EarlyEndError, InputError, OutputError, UsageError
from crispstream.patterns import matches


def pictures(folder: Path, *names: str, size: tuple[int, int] = (64, 48)) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    result = []
    for index, name in enumerate(names):
        picture = Image.new("RGB", size, (40 + 20 * index, 80, 120))
        picture.save(folder / name)
        result.append(picture.tobytes())
    return result


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_a_numbered_sequence_keeps_its_numbers(tmp_path: Path) -> None:
    before = pictures(tmp_path / "in", "a_0007.png", "a_0008.png", "a_0010.png")
    pictures(tmp_path / "in", "a_11.png", "b_0001.png", "a_x.png")
    report = run(tmp_path / "in" / "a_%04d.png", tmp_path / "out_%03d.png", deblurrer=Identity())
    names = sorted(p.name for p in tmp_path.glob("out_*"))
    assert names == ["out_007.png", "out_008.png", "out_010.png"]
    assert [pixels(tmp_path / name) for name in names] == before
    assert report.warnings == ["1 numbers between 7 and 10 have no picture"]


def test_numbers_beyond_the_width_are_found(tmp_path: Path) -> None:
    pictures(tmp_path, "a_9.png", "a_10.png", "a_010.png")
    assert list(matches(tmp_path / "a_%d.png")) == [9, 10]
    assert list(matches(tmp_path / "a_%03d.png")) == [10]


def test_a_glob_into_a_folder_and_into_numbers(tmp_path: Path) -> None:
    before = pictures(tmp_path / "in", "x.png", "y.png")
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "in" / "*.png", tmp_path / "out", deblurrer=Identity()).frames == 2
    assert [pixels(tmp_path / "out" / name) for name in ("x.png", "y.png")] == before
    run(tmp_path / "in" / "*.png", tmp_path / "n%d.png", deblurrer=Identity())
    assert [pixels(tmp_path / name) for name in ("n1.png", "n2.png")] == before


def test_a_film_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "in", "1.png", "2.png", "10.png")
    report = run(tmp_path / "in" / "%d.png", tmp_path / "out.mp4", deblurrer=Identity(), rate=Fraction(10))
    result = read_clip(tmp_path / "out.mp4")
    assert result.times == [Fraction(i, 10) for i in range(3)]
    assert result.corners == sorted(result.corners) and report.frames == 3
    assert report.warnings == ["7 numbers between 1 and 10 have no picture"]


def test_a_film_of_pictures_is_upright_and_opaque(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned right
    picture = Image.new("RGBA", (64, 48), (10, 20, 30, 100))
    picture.save(tmp_path / "a.png", exif=exif)
    report = run(tmp_path / "?.png", tmp_path / "out.mp4", deblurrer=Identity())
    assert read_clip(tmp_path / "out.mp4").size == (48, 64)
    assert report.warnings == ["the transparency of a.png is lost: the film is opaque"]


def test_pictures_of_two_sizes_make_no_film(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    pictures(tmp_path, "c.png", size=(32, 32))
    with pytest.raises(EarlyEndError, match="frame 3 is 32x32"):
        run(tmp_path / "?.png", tmp_path / "out.mp4", deblurrer=Identity())
    assert len(read_clip(tmp_path / "out.mp4").pts) == 2


def test_a_film_into_pictures(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", audio="aac", color=(1, 1, 1, 1))
    report = run(tmp_path / "in.mkv", tmp_path / "out_%02d.png", deblurrer=Identity())
    assert report.frames == 12 and report.skipped == ["stream 1 (audio, aac): a picture cannot hold it"]
    with Image.open(tmp_path / "out_12.png") as picture:
        last = np.asarray(picture)
    # ITU-R BT.709-6, limited range; luma and chroma of the corner are 16 + 11
    luma, chroma = (27 - 16) / 219, (27 - 128) / 224
    expected = np.clip([luma + 1.5748 * chroma, luma - 0.6555 * chroma, luma + 1.8556 * chroma], 0, 1) * 255
    assert last[3, 3] == pytest.approx(expected, abs=3)
    with pytest.raises(OutputError, match=r"out_01.png exists"):
        run(tmp_path / "in.mkv", tmp_path / "out_%02d.png", deblurrer=Identity())
    write_clip(tmp_path / "short.mkv", frames=5)
    report = run(tmp_path / "short.mkv", tmp_path / "out_%02d.png", deblurrer=Identity(), overwrite=True)
    assert report.warnings == ["7 older pictures with numbers above 5 are still there"]


@pytest.mark.parametrize(
    ("src", "dst", "kind", "message"),
    [
        ("no_%d.png", "out_%d.png", InputError, "no file matches"),
        ("*.gif", "out", InputError, "no file matches"),
        ("*.txt", "out_%d.png", InputError, "which is no picture"),
        ("[ab].png", "out.png", UsageError, "2 pictures do not go into"),
        ("[ab].png", "new", UsageError, "does not exist"),
        ("?.*", "[ab].png", InputError, "no picture"),
        ("[ab].png", "", UsageError, "is an input"),
        ("a.png", "out_%d.jpg", None, ""),
        ("film.mp4", "out.png", UsageError, "a film does not go into"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, src: str, dst: str, kind: type[Exception] | None, message: str
) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "c.txt").write_text("words")
    write_clip(tmp_path / "film.mp4", frames=2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    if kind is None:
        assert run(tmp_path / src, tmp_path / dst, deblurrer=Identity()).frames == 1
        return
    with pytest.raises(kind, match=message):
        run(tmp_path / src, tmp_path / dst, deblurrer=Identity(), overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    pictures(tmp_path, "a[1].png", "a1.png")
    assert run(tmp_path / "a[1].png", tmp_path / "out.png", deblurrer=Identity()).frames == 1


def test_a_picture_whose_own_name_looks_like_a_pattern(tmp_path: Path) -> None:
    before = pictures(tmp_path, "sale_50%d.png")
    report = run(tmp_path / "sale_50%d.png", tmp_path / "x%d.png", deblurrer=Identity())
    assert report.output == str(tmp_path / "x%d.png") and pixels(tmp_path / "x%d.png") == before[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sale_50%d.png", "x%d.png"]


def test_pictures_tell_their_size_themselves(tmp_path: Path) -> None:
    pictures(tmp_path, "a_1.png", "a_2.png")
    with pytest.raises(UsageError, match="--size is for raw frames"):
        run(tmp_path / "a_%d.png", tmp_path / "out.mp4", deblurrer=Identity(), size=(64, 48), pixel_format="bgr24")
