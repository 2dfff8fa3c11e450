# SPDX-License-Identifier: Apache-2.0
"""What a run would do: the same findings and the same errors, and nothing is touched."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from crispstream import cli


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        sound = container.add_stream("libopus", rate=48000, layout="mono")
        container.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(50):
            picture = np.full((48, 64, 3), 4 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
        tone.sample_rate = 48000
        container.mux([*sound.encode(tone), *sound.encode(None)])
    return path


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["crispstream", "run", *map(str, arguments), "--dry-run"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, out, err


def test_a_video(clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> dict[str, tuple[int, int]]:
        return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in clip.parent.iterdir()}

    before = files()
    code, out, err = call(
        capsys, monkeypatch, clip, clip.parent / "out.mp4", "--json", "--start", "1", "--device", "cpu"
    )
    data = json.loads(out)
    assert code == 0 and files() == before, err
    assert (data["frames"], data["width"], data["height"], data["rate"], data["seconds"]) == (25, 64, 48, 25.0, 1.0)
    assert (data["preset"], data["encoder"], data["replaces"], data["dry_run"]) == ("nano", "h264", False, True)
    assert data["engine"] in ("onnxruntime", "onnxruntime-int8")
    assert [s for s in data["copied"] if "opus" in s] and [s for s in data["skipped"] if "attachment" in s]
    code, out, _ = call(capsys, monkeypatch, clip, clip.parent / "out.mp4")
    assert code == 0 and "64x48 at 25 frames a second, 50 frames (2.00 s)" in out
    assert out.count("would copy") == 1 == out.count("would leave") and files() == before


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "in.png")
    (tmp_path / "out.png").write_text("mine")
    code, out, err = call(capsys, monkeypatch, tmp_path / "in.png", tmp_path / "out.png")
    assert (code, out) == (4, "") and "--overwrite" in err
    code, out, _ = call(capsys, monkeypatch, tmp_path / "in.png", tmp_path / "out.png", "--overwrite")
    assert code == 0 and "20x10, 1 frame\n" in out and "replacing what is there" in out
    assert (tmp_path / "out.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("none.mp4", "out.mp4"), 3, "does not exist"),
        (("in.mkv", "no/out.mp4"), 4, "mkdir"),
        (("in.mkv", "out.mp4", "--preset", "gigantic"), 2, "gigantic"),
        (("in.mkv", "out.mp4", "--start", "9"), 3, "no picture between"),
        (("in.mkv", "out.mp4", "--encoder", "ffv1"), 2, "does not hold ffv1"),
        (("-", "out.mp4"), 2, "pipe"),
        (("in.mkv", "out.mp4", "--rate", "5"), 2, "--rate is for"),
        (("in.mkv", "out.mp4", "--tile", "10x10"), 2, "too small"),
        (("in.mkv", "out.mp4", "--pixel-format", "nonsense"), 2, "unknown pixel format"),
        (("in.mkv", "out.mp4", "--pixel-format", "nv12"), 2, "of raw frames"),
    ],
)
def test_what_would_fail_fails(
    clip: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(clip.parent)
    seen, out, err = call(capsys, monkeypatch, *arguments)
    assert (seen, out) == (code, "") and text in err and err.count("\n") == 1
    assert [p.name for p in clip.parent.iterdir()] == ["in.mkv"]


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / name)
    code, out, _ = call(capsys, monkeypatch, tmp_path / "in", tmp_path / "out")
    assert code == 0 and out.count("would make") == 2 and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("mine")
    code, out, _ = call(capsys, monkeypatch, tmp_path / "in", tmp_path / "out", "--json")
    assert [entry["state"] for entry in json.loads(out)["files"]] == ["new", "refused"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.png"]


def test_raw_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.bgr").write_bytes(bytes(64 * 48 * 3 * 5))
    raw = ("--size", "64x48", "--pixel-format", "bgr24", "--rate", "10")
    code, out, err = call(capsys, monkeypatch, tmp_path / "raw.bgr", tmp_path / "out.mp4", *raw)
    assert code == 0 and "64x48 at 10 frames a second, 5 frames (0.50 s)" in out, err


def test_pictures_before_an_edit_list_do_not_count(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``ffmpeg -ss -c copy`` leaves them: from the key picture on, shown later."""
    cut = clip.with_name("cut.mp4")
    with av.open(str(clip)) as source, av.open(str(cut), "w") as output:
        copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 1000, packet.dts - 1000, copy
                output.mux(packet)
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 50
        shown = sum(1 for _ in container.decode(video=0))
    code, out, err = call(capsys, monkeypatch, cut, clip.with_name("out.mp4"), "--json")
    assert code == 0 and json.loads(out)["frames"] == shown == 25, err


def test_the_options_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "in" / "a.png")
    code, out, err = call(capsys, monkeypatch, tmp_path / "in", tmp_path / "out", "--tile", "10x10")
    assert (code, out) == (2, "") and "too small" in err
