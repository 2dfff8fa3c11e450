# SPDX-License-Identifier: Apache-2.0
"""``benchmarks``: the page and the comparison, of runs that nobody measured."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import compare, report
from benchmarks.aims import Row, about_threads, rows
from benchmarks.chart import ticks
from benchmarks.clips import PARTS
from benchmarks.sizes import SIZES, area
from benchmarks.stored import Run
from crispstream.bench import STAGES
from crispstream.errors import InputError, UsageError

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BOTH_PRECISIONS = ("fp32", "int8")


def entry(test: str, cost: float, seconds: float = 0.01, **more: Any) -> dict[str, Any]:
    """A benchmark; keywords that are no parameters come as a dictionary called ``extra``."""
    extra = more.pop("extra", {})
    return {
        "name": f"{test}[{'-'.join(map(str, more.values()))}]",
        "test": test,
        "params": more,
        "seconds": {"min": seconds, "median": seconds, "rounds": 5},
        "limit": "convolution",
        "limit_seconds": seconds / cost,
        "cost": cost,
        **extra,
    }


@pytest.fixture
def run() -> dict[str, Any]:
    """A run that reaches every aim, with each benchmark that the page needs."""
    benchmarks = []
    for preset, precision in (("nano", "fp32"), ("nano", "int8"), ("small", "fp32"), ("base", "fp32")):
        for size, threads in product(SIZES, (1, 2)):
            seconds, case = area(size) * 1e-7, {"preset": preset, "precision": precision, "size": size}
            more = {"branches": "both", "threads": threads, "extra": {"gmac": 1.7}}
            benchmarks.append(entry("test_engine", 1.1, seconds, **case, **more))
        stages = {"stages": dict.fromkeys(STAGES, 0.01), "kernels_of_engine": 0.05}
        benchmarks.append(entry("test_stages", 1.0, preset=preset, precision=precision, size=SIZES[0], extra=stages))
    for kernel, size in product(("unpack", "blend", "statistics"), SIZES):
        benchmarks.append(entry(f"test_{kernel}", 1.25, size=size, pixel_format="NV12", threads=2))
    for preset, size in product(("nano", "small", "base", "convolution"), SIZES[:2]):
        benchmarks.append(entry("test_two_threads", 0.53, preset=preset, size=size))
    for size in SIZES[:2]:
        benchmarks.append(entry("test_memory_to_memory", 1.05, size=size, precision="fp32"))
        terms = {"terms": dict.fromkeys(("engine", "unpack", "blend", "codec"), 0.01), "frames": 9, "cores": 2}
        benchmarks.append(entry("test_film", 1.08, size=size, extra=terms))
    for precision in BOTH_PRECISIONS:
        latency = {"p50": 0.02, "p95": 0.03, "p99": 0.04}
        bars = {"width": 0.005, "counts": [0, 0, 5, 9, 2]}
        frames = {"in": 20, "out": 16, "dropped": 4, "rate": 25.0}
        extra = {"latency": latency, "bars": bars, "frames": frames}
        benchmarks.append(entry("test_live", 0.6, precision=precision, extra=extra))
    gating = {
        "parts": [part for part in PARTS for _ in range(4)],
        "seconds_by_frame": {"gated": [0.01, 0.02] * 6, "whole": [0.03] * 12},
        "ratios": dict(zip(PARTS, (0.39, 0.7, 1.0), strict=True)),
    }
    benchmarks.append(entry("test_gating", 0.7, extra=gating))
    benchmarks.append(entry("test_photographs", 1.0, extra={"variants": {"coffee": "both", "grass": "background"}}))
    benchmarks += [entry("test_pixel", 1.14, size=size) for size in SIZES[1:]]
    benchmarks += [entry("test_import", 2.0, 0.2), entry("test_first_frame", 9.0, 1.0), entry("test_parts", 1.01)]
    machine = {"cpu": "a processor", "vector_level": "AVX2", "threads": 2, "siblings": ["0", "1"], "virtual": False}
    versions = dict.fromkeys(("onnxruntime", "numpy", "python", "crispstream"), "1.2")
    return {
        "machine_info": machine | versions,
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05+00:00",
        "benchmarks": benchmarks,
    }


def changed(run: dict[str, Any], test: str, **fields: Any) -> dict[str, Any]:
    """A copy in which every benchmark of ``test`` has these fields."""
    copy = deepcopy(run)
    for one in copy["benchmarks"]:
        if one["test"] == test:
            one.update(fields)
    return copy


def missed(run: dict[str, Any]) -> list[str]:
    return [row.figure for row in rows(Run(run)) if not row.reached]


def test_a_good_run_reaches_every_aim(run: dict[str, Any]) -> None:
    assert missed(run) == []


@pytest.mark.parametrize(
    ("test", "fields", "figures"),
    [
        ("test_engine", {"cost": 1.3}, 3),
        ("test_unpack", {"cost": 1.7}, 1),
        ("test_blend", {"cost": 1.7}, 1),
        ("test_stages", {"kernels_of_engine": 0.061}, 1),
        ("test_memory_to_memory", {"cost": 1.09}, 1),
        ("test_film", {"cost": 1.12}, 1),
        ("test_pixel", {"cost": 1.16}, 1),
        ("test_pixel", {"cost": 0.86}, 1),
        ("test_gating", {"ratios": dict(zip(PARTS, (0.41, 0.7, 1.0), strict=True))}, 1),
        ("test_gating", {"ratios": dict(zip(PARTS, (0.39, 0.78, 1.0), strict=True))}, 1),
        ("test_two_threads", {"cost": 0.56}, 3),
        ("test_import", {"seconds": {"min": 0.4, "median": 0.4, "rounds": 5}}, 1),
        ("test_first_frame", {"seconds": {"min": 2, "median": 2, "rounds": 5}}, 1),
        ("test_parts", {"cost": 1.06}, 1),
    ],
)
def test_what_misses_its_aim_is_said_to_miss_it(
    run: dict[str, Any], test: str, fields: dict[str, Any], figures: int
) -> None:
    worse = changed(run, test, **fields)
    assert len(missed(worse)) == figures
    assert report.sections(Run(worse))["aims"].count("**missed**") == figures


def test_one_value_that_misses_is_enough() -> None:
    row = Row("rate", ">= 0.8", {"360p": 0.9, "4K": 0.79}, lambda value: value >= 0.8)
    assert row.line() == "| rate | >= 0.8 | 0.90 (360p), 0.79 (4K) | **missed** |"


@pytest.mark.parametrize(
    ("siblings", "virtual", "cost", "words"),
    [
        (["0-1"], False, 0.8, "Hardware threads 0-1 share a core"),
        ([], False, 0.8, "does not tell which"),
        (["0", "1"], True, 0.8, "out of reach"),
        (["0", "1"], True, 0.52, "tells of 2 cores; the reference convolution itself gains 1.92"),
    ],
)
def test_what_two_threads_can_give(
    run: dict[str, Any], siblings: list[str], virtual: bool, cost: float, words: str
) -> None:
    run["machine_info"].update(siblings=siblings, virtual=virtual)
    assert words in about_threads(Run(changed(run, "test_two_threads", cost=cost)))


def test_the_page(run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tables and charts are there, what is written by hand stays, and a second time changes nothing."""
    stored, page = tmp_path / "cpu.json", tmp_path / "page.md"
    stored.write_text(json.dumps(run))
    page.write_text(PAGE.read_text(encoding="utf-8"))
    assert report.main([str(stored), "--page", str(page)]) == 0
    text = page.read_text()
    assert "Measured on 2026-01-02 at commit 01234567: a processor (AVX2), 2 hardware threads" in text
    assert "| `nano` | FP32 | 640x360 | both | 1 | 23.0 | 73.8 | 81.2 | 0.91 |" in text
    assert "a branch out of 1: grass" in text and text.startswith("# Speed") and "## Quality against cost" in text
    for name in ("pixel", "stages", "latency", "quality", "gating"):
        with Image.open(tmp_path / "images" / f"performance-{name}.png") as image:
            assert image.size == (760, 360) and len(image.convert("RGB").getcolors(100_000) or ()) > 5
    assert report.main([str(stored), "--page", str(page)]) == 0
    assert page.read_text() == text


def test_a_part_of_a_run_is_not_enough(run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run["benchmarks"] = [one for one in run["benchmarks"] if one["test"] != "test_film"]
    (tmp_path / "cpu.json").write_text(json.dumps(run))
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"))
    before = page.read_text()
    assert report.main([str(tmp_path / "cpu.json"), "--page", str(page)]) == 2
    assert "no test_film" in capsys.readouterr().err and page.read_text() == before
    with pytest.raises(InputError, match="no test_engine with preset huge"):
        Run(run).one("test_engine", preset="huge")


def test_a_page_without_markers() -> None:
    with pytest.raises(UsageError, match="no place for aims"):
        report.filled("# Speed\n", {"aims": "table"})


def test_compare(run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Costs count, times do not; what one of the runs lacks is told."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(run))
    slow_machine = deepcopy(run)
    slow_machine["machine_info"]["cpu"] = "another"
    for one in slow_machine["benchmarks"]:
        one["seconds"]["median"] *= 3
    new.write_text(json.dumps(slow_machine))
    assert compare.main([str(old), str(new)]) == 0
    assert "cpu: a processor, now another" in capsys.readouterr().out

    slower = changed(run, "test_film", cost=1.08 * 1.2)
    del slower["benchmarks"][0]
    new.write_text(json.dumps(slower))
    assert compare.main([str(old), str(new)]) == 1
    told = capsys.readouterr().out
    assert " 1.20  test_film[640x360]\n" in told and "; 1 of the old run are not in the new one" in told
    assert compare.main([str(old), str(new), "--threshold", "0.25"]) == 0
    assert compare.main([str(new), str(old)]) == 0  # faster is no regression
    new.write_text(json.dumps({**run, "benchmarks": []}))
    assert compare.main([str(old), str(new)]) == 1


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 1.1, [0, 0.5, 1.0]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8])],
)
def test_ticks(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted
