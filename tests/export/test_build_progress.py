# SPDX-License-Identifier: Apache-2.0
"""How far a build is."""

from __future__ import annotations

import io

from failing_builder import FIXED

from crispstream.engine.tensorrt import Library
from crispstream.export.progress import Display, Phases
from crispstream.export.tensorrt import Build
from crispstream.manifest import PARTS, Manifest


def test_phases() -> None:
    """Nested phases make one number that only grows."""
    phases, seen = Phases(), []
    phases.start("build", None, 4)
    phases.step("build", 0)
    seen.append(phases.fraction)
    phases.start("optimise", "build", 2)
    phases.step("optimise", 0)
    seen.append(phases.fraction)
    phases.start("tactics", "optimise", 10)
    phases.step("tactics", 4)
    seen.append(phases.fraction)
    phases.finish("tactics")
    phases.finish("optimise")
    phases.step("unknown", 3)
    phases.step("build", 1)
    seen.append(phases.fraction)
    assert seen == [0.25, 0.375, 0.4375, 0.5]


def test_progress_of_a_build(engine: Manifest, found: Library) -> None:
    stream, seen = io.StringIO(), []
    display = Display(stream, quiet=False)
    show = display.show
    display.show = lambda fraction: (seen.append(fraction), show(fraction))  # type: ignore[method-assign]
    with display:
        Build(engine, found, ("sm89",), None, display).run(FIXED)
    assert stream.getvalue().count("100%") == len(PARTS)
    assert "nano 320x192 background" in stream.getvalue()
    assert len(set(seen)) > 20 and seen.count(1.0) >= len(PARTS)
