# SPDX-License-Identifier: Apache-2.0
"""The demo: its blur, its figures, and the user's own input."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from crispstream import demo, sheet
from crispstream.demo_folder import DemoFolder
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.sources.video import VideoSource


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(islice(demo.moving_portrait(), 3))


def test_person_and_background_blur_apart(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    alpha = demo.person_alpha()[..., 0]
    assert 0.35 < alpha.mean() < 0.6
    for sharp, blurred in pairs:
        assert sharp.shape == blurred.shape == (512, 512, 3)
        error = np.abs(sharp.astype(float) - blurred).mean(2)
        assert error[alpha == 1].mean() > 1 and error[alpha == 0].mean() > 1
        assert 18 < demo.psnr(blurred, sharp) < 35


def test_psnr_of_known_errors() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert demo.psnr(black + 255, black) == pytest.approx(0)
    assert demo.psnr(black + 16, black) == pytest.approx(24.048, abs=1e-3)


def test_the_demo_restores_and_leaves_evidence(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "moving_portrait", lambda: iter(pairs))
    result = demo.run_demo(None, tmp_path / "out", "nano")
    assert result["psnr_restored"] > result["psnr_blurred"]
    assert result["fps"] > 0
    assert result["stats"]["frames"] == 3
    names = {Path(f).name for f in result["files"]}
    assert names == {"compare.mp4", "restored.mp4", "before_after.png", "mask.png"}
    assert all(Path(f).stat().st_size > 0 for f in result["files"])
    with Image.open(tmp_path / "out" / "before_after.png") as picture:
        assert picture.width == 3 * 512 + 2 * 8
    film = VideoSource(tmp_path / "out" / "compare.mp4")
    assert [(f.width, f.height) for f in film] == [(1024, 512)] * 3
    film.close()

    # What the demo made is the user's own clip now: no truth, so no figures.
    own = demo.run_demo(tmp_path / "out" / "blurred.mp4", tmp_path / "own", "nano")
    assert own["psnr_restored"] is None and own["stats"]["frames"] == 3


def test_the_users_own_picture(tmp_path: Path) -> None:
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "noise.png")
    result = demo.run_demo(tmp_path / "noise.png", tmp_path / "out", "nano")
    assert result["psnr_blurred"] is None
    assert Image.open(tmp_path / "out" / "restored.png").size == (70, 50)


def test_a_missing_input_and_an_unusable_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        demo.run_demo(tmp_path / "no.mp4", tmp_path / "out", "nano")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot make the folder"):
        demo.run_demo(None, tmp_path / "file", "nano")


def test_only_what_a_demo_made_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Image.effect_noise((48, 32), 60).convert("RGB").save(tmp_path / "noise.png")
    out.mkdir()
    for name in ("restored.png", "mask.png", "before_after.png"):
        (out / name).write_bytes(b"the user's")
        with pytest.raises(OutputError, match=f"{name} exists, and no demo made it") as caught:
            demo.run_demo(tmp_path / "noise.png", out, "nano")
        assert "--overwrite" in caught.value.hint
        assert [(p.name, p.read_bytes()) for p in out.iterdir()] == [(name, b"the user's")]
        (out / name).unlink()
    for _ in range(2):
        made = demo.run_demo(tmp_path / "noise.png", out, "nano")["files"]
    (out / "mask.png").write_bytes(b"changed since")
    with pytest.raises(OutputError, match=r"mask\.png exists"):
        demo.run_demo(tmp_path / "noise.png", out, "nano")
    assert demo.run_demo(tmp_path / "noise.png", out, "nano", overwrite=True)["files"] == made
    assert Image.open(out / "mask.png").size == (48, 32)


@pytest.mark.parametrize("name", ["compare.mp4", "restored.mp4", "before_after.png", "restored.png"])
def test_the_input_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"the user's")
    with pytest.raises(UsageError, match="would replace its input") as caught:
        demo.run_demo(tmp_path / name, tmp_path, "nano", overwrite=True)
    assert "--output" in caught.value.hint
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"the user's")]


def test_a_folder_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        demo.run_demo(tmp_path, tmp_path / "out", "nano")


def test_pictures_and_clips_are_shown_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crispstream.progress._SECONDS_PER_LINE", 0.0)
    with av.open(str(tmp_path / "turned.mp4"), "w") as file:
        stream = file.add_stream("h264", rate=25, width=64, height=32, pix_fmt="yuv420p")
        stream.set_display_matrix((0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30))  # a quarter turn clockwise
        dark_left = np.repeat(np.uint8([[[20]] * 32 + [[220]] * 32]), 32, 0).repeat(3, 2)
        for _ in range(2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(dark_left, format="rgb24")))
        file.mux(stream.encode(None))
    demo.run_demo(tmp_path / "turned.mp4", tmp_path / "out", "nano", progress=True)
    film = next(demo._read(tmp_path / "out" / "compare.mp4"))
    assert film.shape == (64, 64, 3) and film[10:30].mean() < 60 < 180 < film[40:].mean(), "dark above, and twice"
    assert Image.open(tmp_path / "out" / "mask.png").size == (32, 64)
    said = capsys.readouterr().err
    assert "deblurring: 2/2 frames" in said and "comparing: 2/2 frames" in said

    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(dark_left).save(tmp_path / "turned.jpg", exif=exif)
    demo.run_demo(tmp_path / "turned.jpg", tmp_path / "out", "nano")
    assert Image.open(tmp_path / "out" / "mask.png").size == (32, 64)
    with Image.open(tmp_path / "out" / "before_after.png") as sheet_of_both:
        assert sheet_of_both.size == (32 * 2 + 8, 26 + 64)


def test_colour_survives_the_video(pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path) -> None:
    demo._write(DemoFolder(tmp_path, [], None, False), "a.mp4", iter([pairs[0][1]]), Fraction(24))
    (back,) = demo._read(tmp_path / "a.mp4")
    assert demo._rate(tmp_path / "a.mp4") == 24
    assert demo.psnr(back, pairs[0][1]) > 38
    assert np.abs(back.mean((0, 1)) - pairs[0][1].mean((0, 1))).max() < 1.0, "no colour cast"


def test_an_interrupted_run_interrupts_the_demo(
    pairs: list[tuple[np.ndarray, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_run = demo.run

    def interrupted(*arguments: object, **options: object) -> object:
        return replace(real_run(*arguments, **options), interrupted=True)  # type: ignore[arg-type]

    monkeypatch.setattr(demo, "run", interrupted)
    monkeypatch.setattr(demo, "moving_portrait", lambda: iter(pairs))
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(None, tmp_path / "out", "nano")


def test_sheet_and_overlay() -> None:
    grey = np.full((20, 30, 3), 100, np.uint8)
    page = sheet.before_after({"a": grey, "b": grey + 50}, ((0, 0, 10),))
    assert page.size == (30 * 2 + 8, 26 + 20 + 8 + 30)
    assert page.getpixel((35, 30)) == (255, 255, 255) and page.getpixel((45, 40)) == (150, 150, 150)
    overlay = sheet.mask_overlay(grey, np.array([[0.0, 1.0]], np.float32))
    left, right = overlay.getpixel((0, 10)), overlay.getpixel((29, 10))
    assert left == (100, 100, 100) and right != left
    assert sheet.side_by_side(grey[:19, :29], grey[:19, :29]).shape == (18, 56, 3)
