# SPDX-License-Identifier: Apache-2.0
"""Everything that only a GPU can tell, in one run: ``python benchmarks/gpu.py``.

Writes ``benchmarks/results/<gpu>.json``: the card's copy bandwidth, every kernel as a fraction of it, and for every
engine, preset and size the latency, the throughput, the time of each piece and what the host spends on launching, with
the graph and without, gated and not (``gpu_kernels.py`` and ``gpu_engines.py`` say what the figures are). Plans that
are missing are named, with the command that builds them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from gpu_engines import engine_figures
from gpu_kernels import card, kernel_figures

from crispstream import PixelFormat
from crispstream.cuda.driver import load
from crispstream.cuda.worker import Worker
from crispstream.engine.select import ON_GPU as BACKENDS
from crispstream.errors import CrispStreamError
from crispstream.manifest import available_presets

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "2160p": (3840, 2160)}
FRAMES = 300


def main() -> int:
    """Measure, write the file, print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--presets", nargs="*", default=available_presets())
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of each measurement")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    worker = Worker(options.device)
    try:
        found: dict[str, Any] = {"card": worker.call(card, worker.device), "kernels": {}, "engines": []}
        found["card"]["pycuda"] = load().get_version()
        for name in options.sizes:
            for pixel_format in (PixelFormat.BGR24, PixelFormat.NV12):
                figures = worker.call(kernel_figures, worker.device, SIZES[name], pixel_format)
                found["kernels"][f"{name} {pixel_format.name}"] = figures
                _say(f"{name} {pixel_format.name}", figures)
    finally:
        worker.close()
    for backend in BACKENDS:
        for preset in options.presets:
            for name in options.sizes:
                entry = {"backend": backend, "preset": preset, "size": name}
                try:
                    entry |= engine_figures(backend, preset, SIZES[name], options.device, options.frames)
                except CrispStreamError as error:
                    entry |= {"error": str(error), "hint": error.hint}
                found["engines"].append(entry)
                _say(f"{backend} {preset} {name}", entry)
    slug = re.sub(r"[^a-z0-9]+", "-", found["card"]["name"].lower()).strip("-")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{slug}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(path)
    return 0


def _say(what: str, figures: object) -> None:
    print(f"{what}: {json.dumps(figures)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
