# SPDX-License-Identifier: Apache-2.0
"""Frames in tiles come out as whole ones do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crispstream import memory
from crispstream.deblurrer import Deblurrer
from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.errors import UsageError
from crispstream.frame import Frame, PixelFormat, plane_shapes
from crispstream.gating import Decision
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import Manifest, load
from crispstream.runners import tiles
from crispstream.runners.cpu import CpuRunner
from crispstream.runners.tiles import Tiling

VARIANTS = [
    Decision(),
    Decision(True, False, 1.0, 0.0, 1.0),
    Decision(False, True, 0.5, 0.0, 0.0),
    Decision(False, False, 0.0, 1.0, 0.0),
    Decision(True, True, 1.0, 0.25, 0.0),
]
STRENGTH = 20.0
"""Far beyond what a user may ask for: whatever differs between the two ways differs by so much more."""


@pytest.fixture(scope="module")
def nano() -> Manifest:
    return load("nano")


@pytest.fixture(scope="module")
def whole(nano: Manifest) -> Iterator[CpuRunner]:
    yield from _runner(nano, "off")


@pytest.fixture(scope="module")
def tiled(nano: Manifest) -> Iterator[CpuRunner]:
    yield from _runner(nano, "352x304")


def _runner(engine: Manifest, tile: str) -> Iterator[CpuRunner]:
    runner = CpuRunner(OnnxRuntimeEngine(engine), tile=tile)
    yield runner
    runner.close()


def blocks(pixel_format: PixelFormat, width: int, height: int) -> Frame:
    """Blocks of all sizes up to a few hundred pixels, smeared: something for every scale of the network."""
    planes = []
    for i, shape in enumerate(plane_shapes(pixel_format, width, height)):
        rng, plane = np.random.default_rng(i), np.zeros(shape)
        for size in (5, 24, 110):
            cells = rng.normal(0, 40, (-(-shape[0] // size), -(-shape[1] // size), *shape[2:]))
            plane += cells.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]
        smeared = np.mean([np.roll(plane, d, 1) for d in range(-5, 6)], 0)
        planes.append(np.clip(smeared + 128, 0, 255).astype(np.uint8))
    return Frame(tuple(planes), pixel_format)


def difference(a: Frame, b: Frame) -> int:
    """In codes, at most."""
    return max(int(np.abs(p.astype(int) - q).max()) for p, q in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize(
    ("pixel_format", "width", "height"),
    [*((each, 433, 351) for each in PixelFormat), (PixelFormat.I420, 97, 353), (PixelFormat.NV12, 545, 33)],
)
def test_tiles_change_nothing(
    whole: CpuRunner, tiled: CpuRunner, pixel_format: PixelFormat, width: int, height: int
) -> None:
    frame = blocks(pixel_format, width, height)
    one, many = (runner.submit(frame, Decision(), STRENGTH).result() for runner in (whole, tiled))
    assert difference(one.frame, frame) > 20, "the network has something to say"
    assert difference(one.frame, many.frame) <= 1
    assert many.statistics == pytest.approx(one.statistics, abs=1e-5)
    assert np.allclose(whole.maps(frame), tiled.maps(frame), atol=1e-5)


@pytest.mark.parametrize("decision", VARIANTS)
def test_tiles_change_nothing_of_a_gated_frame(whole: CpuRunner, tiled: CpuRunner, decision: Decision) -> None:
    frame = blocks(PixelFormat.I420, 433, 351)
    one, many = (runner.submit(frame, decision, STRENGTH).result() for runner in (whole, tiled))
    assert difference(one.frame, many.frame) <= 1
    assert many.statistics == pytest.approx(one.statistics, abs=1e-5)


def test_without_the_overlap_tiles_would_show(
    whole: CpuRunner, nano: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = blocks(PixelFormat.BGR24, 433, 351)
    expected = whole.submit(frame, Decision(), STRENGTH).result().frame
    monkeypatch.setattr(Tiling, "halo", 0)
    for runner in _runner(nano, "352x304"):
        assert difference(runner.submit(frame, Decision(), STRENGTH).result().frame, expected) > 1


@pytest.mark.parametrize("length", [1, 272, 273, 641, 4320, 7680])
@pytest.mark.parametrize("side", [272, 288, 1024])
def test_spans_cover_an_axis_once(nano: Manifest, length: int, side: int) -> None:
    tiling = Tiling(nano, f"{side}x{side}")
    cut = [tile.x for tile in tiling.tiles(length, 1)]
    padded = -(-length // 16) * 16
    assert (cut[0].begin, cut[0].first, cut[-1].end, cut[-1].last) == (0, 0, padded, padded)
    assert all(a.last == b.first < b.last for a, b in itertools.pairwise(cut))
    assert {span.end - span.begin for span in cut} == {cut[0].end} and cut[0].end <= max(side, 16)
    for span in cut:
        assert not any(n % 16 for n in (span.begin, span.end, span.first, span.last))
        assert span.begin == 0 or span.first - span.begin >= tiling.halo > nano.receptive_radius
        assert span.end == padded or span.end - span.last >= tiling.halo


def test_large_frames_fit_the_memory(nano: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = Tiling(nano, "auto")
    for gigabytes in (1, 2, 8, 24):
        monkeypatch.setattr(tiles, "memory_size", lambda size=gigabytes << 30: size)
        for width, height in ((640, 360), (1920, 1080), (3840, 2160), (7680, 4320), (30000, 400)):
            cut = tiling.tiles(width, height)
            assert tiling.memory(cut[0].padded_width, cut[0].padded_height) <= gigabytes << 28
            assert (len(cut) == 1) == (tiling.memory(width, height) <= gigabytes << 28)
    assert len(tiling.tiles(1920, 1080)) == 1 and len(tiling.tiles(7680, 4320)) > 1
    assert len(Tiling(nano, "off").tiles(7680, 4320)) == 1


def test_a_machine_with_next_to_no_memory_gets_the_smallest_tiles(
    nano: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "memory_size", lambda: 1 << 20)
    cut = Tiling(nano, "auto").tiles(1920, 1080)
    assert max(cut[0].padded_width, cut[0].padded_height) <= 400


@pytest.mark.parametrize(
    ("tile", "said"), [("big", "says nothing"), ("100x1000", "128 pixels"), ("0x0", "says nothing")]
)
def test_tiles_that_cannot_be(tile: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Deblurrer("nano", "cpu", tile=tile)


def test_sessions_are_as_large_as_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, int]] = []
    session = OnnxRuntimeEngine.session

    def noted(engine: OnnxRuntimeEngine, size: Geometry) -> object:
        opened.append((size.padded_width, size.padded_height))
        return session(engine, size)

    monkeypatch.setattr(OnnxRuntimeEngine, "session", noted)
    with Deblurrer("nano", "cpu", tile="352x304") as deblur:
        deblur(np.zeros((351, 433, 3), np.uint8))
    assert len(opened) == 2 and max(opened) <= (352, 304), "one of the smallest size, to see whether the graphs load"


def test_the_memory_of_a_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("123456789\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert memory.memory_size(tmp_path, tmp_path / "membership") == 123456789
    assert memory.memory_size(tmp_path, tmp_path / "none") > 123456789


def test_the_field_is_in_the_manifest(nano: Manifest) -> None:
    assert Tiling(nano, "auto").halo == 128 and nano.receptive_radius == 115
    assert Tiling(replace(nano, receptive_radius=153), "auto").halo == 160
