# SPDX-License-Identifier: Apache-2.0
"""Scene cuts are found on their frame; pans, flashes, noise and blinks are none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from crispstream.cuts import CutDetector
from crispstream.deblurrer import Deblurrer
from crispstream.frame import Frame, PixelFormat, Plane
from crispstream.gating import FADE_FRAMES, QUIET_FRAMES

HEIGHT, WIDTH = 120, 200


def scene(seed: int, width: int = WIDTH) -> Plane:
    """Large and small blocks of grey."""
    rng, plane = np.random.default_rng(seed), np.zeros((HEIGHT, width))
    for size, contrast in ((60, 45), (22, 35), (7, 15)):
        cells = rng.normal(0, contrast, (-(-HEIGHT // size), -(-width // size)))
        plane += cells.repeat(size, 0).repeat(size, 1)[:HEIGHT, :width]
    return np.clip(plane + 120, 0, 255).astype(np.uint8)


def grey(luma: Plane) -> Frame:
    chroma = np.full((luma.shape[0] // 2, luma.shape[1] // 2), 128, np.uint8)
    return Frame((luma, chroma, chroma), PixelFormat.I420)


def cuts(pictures: Sequence[Plane]) -> list[int]:
    detector = CutDetector()
    return [i for i, luma in enumerate(pictures) if detector.observe(grey(luma))]


def test_every_cut_is_found_on_its_frame() -> None:
    assert cuts([scene(i // 5) for i in range(100)]) == list(range(5, 100, 5))


@pytest.mark.parametrize("step", [2, 20, 60])
def test_a_pan_is_no_cut(step: int) -> None:
    wide = scene(0, 2000)
    assert cuts([wide[:, x : x + WIDTH] for x in range(0, 1800, step)]) == []


@pytest.mark.parametrize(("gain", "offset"), [(1.5, 0), (2, 0), (1, 90), (0.4, 0), (6, 100), (0, 5)])
def test_a_flash_or_a_blink_is_no_cut(gain: float, offset: float) -> None:
    lit = np.clip(scene(1).astype(float) * gain + offset, 0, 255).astype(np.uint8)
    assert cuts([scene(1), scene(1), lit, scene(1), lit, lit, scene(1)]) == []


def test_a_cut_behind_black_or_white_frames_is_found() -> None:
    for level in (0, 255):
        blank = np.full((HEIGHT, WIDTH), level, np.uint8)
        assert cuts([scene(1), blank, blank, scene(2), scene(2)]) == [3]


def test_noise_in_the_dark_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    assert cuts([rng.integers(0, 40, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(30)]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (17, 3), (4320, 7680)])
def test_any_size_and_format(size: tuple[int, int]) -> None:
    detector = CutDetector()
    for pixel_format in (PixelFormat.BGR24, PixelFormat.RGB24):
        assert not detector.observe(Frame.from_array(np.zeros((*size, 3), np.uint8), pixel_format))


def test_a_stream_starts_afresh_on_the_frame_of_the_cut() -> None:
    quiet = QUIET_FRAMES + FADE_FRAMES + 4
    still = [np.repeat(scene(i)[:96, :96, None], 3, 2) for i in (1, 2)]
    with Deblurrer("nano", "cpu") as opened:
        stream, ran = opened.open_stream(), []
        runner = opened._runner
        original = runner.submit  # type: ignore[union-attr]

        def noted(frame: Frame, decision: object, strength: float) -> object:
            ran.append(decision.variant)  # type: ignore[attr-defined]
            done = original(frame, decision, strength)
            object.__setattr__(done.result(), "statistics", (0.0, 0.0))  # nothing is blurred
            return done

        runner.submit = noted  # type: ignore[union-attr,assignment,method-assign]
        for image in (still[0],) * quiet + (still[1],) * 3:
            stream.process(Frame.from_array(image))
        assert ran[quiet - 1] == "none" and ran[quiet:] == ["both"] * 3
        assert opened.stats.as_dict()["scene_cuts"] == 1


@pytest.mark.skipif("CRISPSTREAM_DATA" not in os.environ, reason="CRISPSTREAM_DATA names no folder with clips")
def test_real_clips_one_after_the_other() -> None:
    av = pytest.importorskip("av")
    pictures: list[Plane] = []
    expected = []
    for clip in sorted((Path(os.environ["CRISPSTREAM_DATA"]) / "clips").glob("*.mp4")) * 2:
        expected.append(len(pictures))
        with av.open(str(clip)) as container:
            for _, frame in zip(range(120), container.decode(video=0), strict=False):
                pictures.append(frame.to_ndarray(format="gray")[:432, :768])
    assert len(expected) > 2, "two clips at least"
    assert cuts(pictures) == expected[1:]
