# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.report``: the tables and charts of docs/performance.md from the stored run.

What stands outside the markers is written by hand and stays.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import plots
from benchmarks.aims import about_threads, rows
from benchmarks.stored import Run
from crispstream.errors import CrispStreamError, UsageError

ROOT = Path(__file__).parents[1]
STORED = ROOT / "benchmarks" / "results" / "cpu.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- begin: {} -->\n", "<!-- end: {} -->\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the page and its images; 2 where the run does not suffice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", default=STORED, help="what make bench wrote")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    try:
        run = Run.read(options.run)
        text = filled(options.page.read_text(encoding="utf-8"), sections(run))
        plots.save(run, options.page.parent / "images")
    except CrispStreamError as error:
        print(f"error: {error}, {error.hint}", file=sys.stderr)
        return 2
    options.page.write_text(text, encoding="utf-8")
    print(options.page)
    return 0


def filled(page: str, found: dict[str, str]) -> str:
    """``page`` with each section between its markers. Raises UsageError where it has no such markers."""
    for name, text in found.items():
        begin, end = BEGIN.format(name), END.format(name)
        if page.count(begin) != 1 or page.count(end) != 1:
            raise UsageError(f"the page has no place for {name}", f"add {begin.strip()} and {end.strip()}")
        head, tail = page.split(begin)
        page = f"{head}{begin}{text}\n{end}{tail.partition(end)[2]}"
    return page


def sections(run: Run) -> dict[str, str]:
    """Markdown, by the name that the markers have. Raises InputError where the run lacks a benchmark."""
    return {
        "machine": "\n".join(_machine(run)),
        "aims": _table(("figure", "aim", "measured", ""), (row.line() for row in rows(run))),
        "engine": _table(
            ("preset", "", "size", "branches", "threads", "ms", "GMAC/s", "reference", "of it"), _engine(run)
        ),
        "kernels": _table(("kernel", "size", "format", "threads", "ms", "of a copy"), _kernels(run)),
        "film": _table(("", "engine", "unpack", "blend", "codec, CPU", "cores", "bound", "measured", ""), _films(run)),
        "live": _table(("", "p50", "p95", "p99", "frames in", "out", "dropped"), _live(run)),
        "gating": _gating(run),
    }


def _table(titles: tuple[str, ...], lines: Iterator[str]) -> str:
    return "\n".join([f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|", *lines])


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _machine(run: Run) -> Iterator[str]:
    machine = run.machine
    yield (
        f"Measured on {run.fields['datetime'][:10]} at commit {run.fields['commit_info']['id'][:8]}: {machine['cpu']}"
        f" ({machine['vector_level']}), {machine['threads']} hardware threads, ONNX Runtime {machine['onnxruntime']},"
        f" NumPy {machine['numpy']}, Python {machine['python']}, CrispStream {machine['crispstream']}."
    )
    yield about_threads(run)


def _engine(run: Run) -> Iterator[str]:
    for one in run.all("test_engine"):
        params, seconds = one["params"], one["seconds"]["median"]
        yield _line(
            f"`{params['preset']}`",
            plots.NAMES[params["precision"]],
            params["size"],
            params["branches"],
            params["threads"],
            f"{1000 * seconds:.1f}",
            f"{one['gmac'] / seconds:.1f}",
            f"{one['gmac'] / one['limit_seconds']:.1f}",
            f"{1 / one['cost']:.2f}",
        )


def _kernels(run: Run) -> Iterator[str]:
    for kernel in ("unpack", "blend", "statistics"):
        for one in run.all(f"test_{kernel}"):
            params = one["params"]
            yield _line(
                kernel,
                params["size"],
                params.get("pixel_format", ""),
                params.get("threads", 1),
                f"{1000 * one['seconds']['median']:.3f}",
                f"{1 / one['cost']:.2f}",
            )


def _films(run: Run) -> Iterator[str]:
    for one in run.all("test_film"):
        terms, frames = one["terms"], one["frames"]
        yield _line(
            one["params"]["size"],
            *(f"{1000 * terms[name]:.2f} ms" for name in ("engine", "unpack", "blend", "codec")),
            one["cores"],
            f"{frames / one['limit_seconds']:.1f} fps",
            f"{frames / one['seconds']['median']:.1f} fps",
            f"{1 / one['cost']:.2f}",
        )


def _live(run: Run) -> Iterator[str]:
    for one in run.all("test_live"):
        latency, frames = one["latency"], one["frames"]
        shown = (f"{1000 * latency[p]:.0f} ms" for p in ("p50", "p95", "p99"))
        yield _line(plots.NAMES[one["params"]["precision"]], *shown, *(frames[key] for key in ("in", "out", "dropped")))


def _gating(run: Run) -> str:
    found = run.one("test_gating")
    ratios = "; ".join(f"{part} {ratio:.2f}" for part, ratio in found["ratios"].items())
    shown = run.one("test_photographs")["variants"]
    left_out = [name for name, variant in shown.items() if variant != "both"]
    names = f": {', '.join(left_out)}" if left_out else ""
    return (
        f"Time of the gated engine over both branches, once gating has settled: {ratios}; the whole clip"
        f" {found['cost']:.2f}. Of {len(shown)} sharp photographs without people that stand still, gating leaves a"
        f" branch out of {len(left_out)}{names}."
    )


if __name__ == "__main__":
    sys.exit(main())
