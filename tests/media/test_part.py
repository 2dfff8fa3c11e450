# SPDX-License-Identifier: Apache-2.0
"""A part of a film: the right frames, sound and subtitles cut to match, times from zero."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from clips import ODD_TIMES, TICK, Identity, read_clip, write_clip
from PIL import Image

from crispstream import run
from crispstream.cut import Cut, parse_time
from crispstream.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("12.5", Fraction(25, 2)), ("90", 90), ("1:02.5", Fraction(125, 2)), ("1:00:02.25", Fraction(14409, 4))],
)
def test_times(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:75", "75:00:00:00", "12,5", "one", "1:", "nan", "1e3"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_and_sound_of_a_part(tmp_path: Path, suffix: str) -> None:
    """Key frames every 10 frames: the part begins between two of them."""
    source = write_clip(tmp_path / f"in{suffix}", frames=100, audio="aac", options={"g": "10"})
    run(source, tmp_path / f"out{suffix}", deblurrer=Identity(), start="1.0", end=2.5)
    whole, part = read_clip(source), read_clip(tmp_path / f"out{suffix}")
    inside = [i for i, time in enumerate(whole.times) if 1 <= time - whole.times[0] < Fraction(5, 2)]
    first = whole.times[inside[0]]
    assert len(inside) in (37, 38) and len(part.times) == len(inside)
    assert [float(t) for t in part.times] == pytest.approx([float(whole.times[i] - first) for i in inside], abs=0.001)
    assert [abs(a - whole.corners[i]) <= 2 for a, i in zip(part.corners, inside, strict=True)] == [True] * len(inside)
    base = [float(s["time_base"]) for s in whole.streams]
    sound = [(p * base[1], data) for p, _, data in whole.packets[1]]
    expected = [(time - float(first), data) for time, data in sound if float(first) - 1e-6 <= time < 2.5]
    seen = [(p * float(part.streams[1]["time_base"]), data) for p, _, data in part.packets[1]]
    assert [data for _, data in seen] == [data for _, data in expected] and len(seen) > 60
    assert [t for t, _ in seen] == pytest.approx([t for t, _ in expected], abs=0.002)


def test_an_end_alone_moves_nothing(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", pts=ODD_TIMES, audio="aac")
    run(source, tmp_path / "out.mp4", deblurrer=Identity(), end="0.5")
    whole, part = read_clip(source), read_clip(tmp_path / "out.mp4")
    assert part.pts == [p for p in whole.pts if p * TICK < Fraction(1, 2)]
    assert part.packets[1] == [p for p in whole.packets[1] if p[0] < 24000]


def test_a_subtitle_on_the_screen_is_shortened(tmp_path: Path) -> None:
    """Lines begin at 0, 0.3 and 0.6 of the film and last 0.1 s each."""
    source = write_clip(tmp_path / "in.mkv", frames=100, subtitles="subrip")
    lines = [p * 1000 * read_clip(source).streams[1]["time_base"] for p, _, _ in read_clip(source).packets[1]]
    start = float(lines[1] + 60) / 1000
    run(source, tmp_path / "out.mkv", deblurrer=Identity(), start=start, end=start + 3)
    with av.open(str(tmp_path / "out.mkv")) as container:
        texts = [p for p in container.demux(subtitles=0) if p.size]
    first = next(t for t in read_clip(source).times if t >= Fraction(str(start)))
    assert [bytes(p) for p in texts] == [b"line 1", b"line 2"]
    assert (texts[0].pts, texts[0].duration) == (0, 100 - round(float(first) * 1000 - float(lines[1])))


def test_chapters_are_cut(tmp_path: Path) -> None:
    base = Fraction(1, 1000)
    chapters = [
        {"id": i, "start": 1000 * i, "end": 1000 * i + 1000, "time_base": base, "metadata": {}} for i in range(4)
    ]
    kept = Cut(Fraction(3, 2), Fraction(3)).chapters(chapters)
    assert [(c["id"], c["start"], c["end"]) for c in kept] == [(1, 0, 500), (2, 500, 1500)]
    assert Cut().chapters(chapters) == chapters


def test_a_container_without_an_index_is_read_from_the_start(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.ts", frames=50)
    report = run(source, tmp_path / "out.mkv", deblurrer=Identity(), start="1.0")
    whole, part = read_clip(source), read_clip(tmp_path / "out.mkv")
    assert report.frames == 25 == len(part.times) and part.times[0] == 0
    assert abs(part.corners[0] - whole.corners[25]) <= 2


def test_what_makes_no_part(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    with pytest.raises(InputError, match="no picture between"):
        run(source, tmp_path / "out.mp4", deblurrer=Identity(), start="9")
    with pytest.raises(UsageError, match="does not lie after"):
        run(source, tmp_path / "out.mp4", deblurrer=Identity(), start="2", end="0.5")
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    with pytest.raises(UsageError, match="has no times"):
        run(tmp_path / "in.png", tmp_path / "out.png", deblurrer=Identity(), end="1")
    assert not list(tmp_path.glob("out*"))


def test_a_film_that_starts_before_zero(tmp_path: Path) -> None:
    """Times count from its first picture."""
    source = write_clip(tmp_path / "in.mp4", frames=50, container={"movflags": "frag_keyframe+delay_moov"})
    data = bytearray(source.read_bytes())
    at = data.index(b"elst") + 16  # the media time of its first edit (ISO/IEC 14496-12, 8.6.6)
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 12800).to_bytes(4, "big")
    source.write_bytes(data)
    assert read_clip(source).times[0] == -1
    for end, frames in ((0.2, 5), (1.2, 30)):
        report = run(source, tmp_path / "out.mkv", deblurrer=Identity(), end=end, overwrite=True)
        assert report.frames == frames == len(read_clip(tmp_path / "out.mkv").times)
