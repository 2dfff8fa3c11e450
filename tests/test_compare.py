# SPDX-License-Identifier: Apache-2.0
"""Before and after: what is shown, what is measured, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from crispstream import cli
from crispstream.compare import compare
from crispstream.errors import InputError, OutputError, UsageError
from crispstream.metrics import psnr, ssim

Picture = npt.NDArray[np.uint8]


def picture(seed: int, height: int = 32, width: int = 48) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Before, after and the truth; before is further away."""
    truth = picture(0) // 2 + 64
    paths = tuple(tmp_path / f"{name}.png" for name in ("before", "after", "truth"))
    for path, error in zip(paths, (16, 4, 0), strict=True):
        Image.fromarray(truth + np.uint8(error)).save(path)
    return paths


def read(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image)


def clip(path: Path, pictures: list[Picture], turned: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb24"
        if turned:
            stream.set_display_matrix([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30])
        for one in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode())
    return path


def frames(path: Path) -> list[Picture]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_pictures_are_measured(three: tuple[Path, Path, Path]) -> None:
    before, after, truth = three
    found = compare(before, after, None, reference=truth)
    for name, path in (("before", before), ("after", after)):
        assert found[name]["psnr"] == pytest.approx(psnr(read(path), read(truth)))
        assert found[name]["ssim"] == pytest.approx(ssim(read(path), read(truth)))
    assert found["after"]["psnr"] == pytest.approx(10 * np.log10(255**2 / 16))
    assert found["after"]["psnr"] > found["before"]["psnr"] + 10
    assert (found["frames"], found["output"], found["warnings"]) == (1, None, [])


def test_the_three_views(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, after, _ = three
    seen = {}
    for mode in ("side-by-side", "split", "difference"):
        compare(before, after, tmp_path / f"{mode}.png", mode=mode)
        seen[mode] = read(tmp_path / f"{mode}.png")
    assert seen["side-by-side"].shape == (32, 96, 3)
    assert np.array_equal(seen["side-by-side"][-4:, 48:], read(after)[-4:]), "below the names"
    assert np.array_equal(seen["split"][:, :20], read(before)[:, :20])
    assert np.array_equal(seen["split"][:, 28:], read(after)[:, 28:]) and (seen["split"][:, 23:25] == 255).all()
    assert (seen["difference"] == 128 - 4 * 12).all()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_videos(tmp_path: Path, suffix: str) -> None:
    smooth = [np.full((48, 64, 3), 40 * i + 40, np.uint8) for i in range(5)]
    before = clip(tmp_path / "before.mkv", [one + np.uint8(20) for one in smooth])
    after, truth = clip(tmp_path / "after.mkv", smooth[:4]), clip(tmp_path / "truth.mkv", smooth)
    found = compare(before, after, tmp_path / f"out{suffix}", mode="split", reference=truth)
    assert found["frames"] == 4 and "after.mkv ends after 4 frames" in found["warnings"][0]
    assert found["before"]["psnr"] == pytest.approx(10 * np.log10(255**2 / 400)) and found["after"]["psnr"] > 100
    shown = frames(tmp_path / f"out{suffix}")
    assert len(shown) == 4 and shown[0].shape == (48, 64, 3)
    for index, one in enumerate(shown):
        assert abs(int(one[24, 8, 0]) - (60 + 40 * index)) <= 3 and abs(int(one[24, 56, 0]) - (40 + 40 * index)) <= 3


def test_films_and_pictures_are_shown_upright(tmp_path: Path) -> None:
    still = [picture(3, 32, 64)] * 2
    lying = clip(tmp_path / "in.mp4", still, turned=True)
    compare(lying, lying, tmp_path / "out.mp4", mode="split")
    assert frames(tmp_path / "out.mp4")[0].shape == (64, 32, 3)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(still[0]).save(tmp_path / "in.jpg", exif=exif.tobytes())
    compare(tmp_path / "in.jpg", tmp_path / "in.jpg", tmp_path / "out.png", mode="difference")
    assert read(tmp_path / "out.png").shape == (64, 32, 3)


def test_what_cannot_be_compared(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, after, truth = three
    with pytest.raises(UsageError, match="neither an output nor a reference"):
        compare(before, after, None)
    with pytest.raises(UsageError, match="the output is an input"):
        compare(before, after, truth, reference=truth, overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        compare(before, tmp_path / "none.png", None, reference=truth)
    with pytest.raises(UsageError, match="is a folder"):
        compare(tmp_path, after, None, reference=truth)
    film = clip(tmp_path / "film.mkv", [picture(1)])
    with pytest.raises(UsageError, match="a picture and a video"):
        compare(film, after, None, reference=truth)
    Image.fromarray(picture(1, 16, 16)).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match=r"before.png is 48x32, .*small.png is 16x16"):
        compare(before, tmp_path / "small.png", tmp_path / "out.png")
    (tmp_path / "mine.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        compare(before, after, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_text() == "mine" and not (tmp_path / "out.png").exists()
    compare(before, after, tmp_path / "mine.png", overwrite=True)
    assert read(tmp_path / "mine.png").shape == (32, 96, 3)


@pytest.mark.parametrize("output", ["x" * 300 + ".png", "none/out.png", "truth.png/out.png", "loop.png", "folder"])
def test_an_output_that_cannot_be_reached_is_one_line(
    three: tuple[Path, Path, Path],
    tmp_path: Path,
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder").mkdir()
    before, after, _ = map(str, three)
    monkeypatch.setattr("sys.argv", ["crispstream", "compare", before, after, str(tmp_path / output)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert stopped.value.code == (UsageError if output == "folder" else OutputError).exit_code
    assert out == "" and err.startswith("crispstream: error: ") and err.count("\n") == 1 and output.split("/")[0] in err
    assert "--debug" not in err


def test_the_command(
    three: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, truth = map(str, three)
    outputs = []
    for extra in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["crispstream", "compare", before, after, "--reference", truth, *extra])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        outputs.append(capsys.readouterr().out)
    data = json.loads(outputs[1])
    monkeypatch.setattr("sys.argv", ["crispstream", "compare", truth, truth, "--reference", truth])
    with pytest.raises(SystemExit):
        cli.main()
    assert "before identical, SSIM 1.0000" in capsys.readouterr().out
    assert f"after  PSNR {data['after']['psnr']:.2f} dB, SSIM {data['after']['ssim']:.4f}" in outputs[0]
