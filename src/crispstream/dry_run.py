# SPDX-License-Identifier: Apache-2.0
"""What a run would do, found out without doing it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from crispstream.cut import Cut
from crispstream.deblurrer import Deblurrer
from crispstream.ends import PIPE, Wishes, open_ends
from crispstream.errors import InputError, UsageError
from crispstream.files import ends_of
from crispstream.sinks.video import VideoSink


@dataclass(frozen=True, slots=True)
class DryRun:
    """What would be read, done and written. ``frames`` is what the input promises, None where it does not say;
    ``rate`` in frames a second, None for pictures; ``copied`` and ``skipped``: its other streams."""

    input: str
    output: str
    frames: int | None
    width: int
    height: int
    rate: float | None
    seconds: float | None
    engine: str
    preset: str
    encoder: str
    replaces: bool
    copied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"dry_run": True, **asdict(self)}


def dry_run(src: str, dst: str, settings: dict[str, Any], options: dict[str, Any], overwrite: bool = False) -> DryRun:
    """Read the first frame of ``src`` and open the output and the engine as ``files.run`` would, with its ``settings``
    (encoder, start, size, ...); nothing is left behind. ``options`` are the Deblurrer's. Raises what that run would
    raise before its first frame.
    """
    source, target = ends_of(src, dst)
    if PIPE in (source, target):
        raise UsageError("--dry-run looks at files; a pipe can be read only once", "leave --dry-run out")
    wishes = dict(settings)
    cut = Cut.between(wishes.pop("start", None), wishes.pop("end", None))
    replaces = target.exists()
    with ExitStack() as cleanup:
        ends = open_ends(source, target, Wishes(overwrite=overwrite, **wishes), cut, cleanup)
        frame = next((f for f in ends.source if f is not None), None)
        if frame is None:
            raise InputError(f"{source} holds no frame that can be decoded")
        if isinstance(ends.sink, VideoSink):
            ends.sink.write(frame)  # into the temporary file, which goes again: only this asks encoder and container
        rate: Fraction | None = getattr(ends.source, "rate", None) if ends.is_film else None
        total = ends.source.total
        found: dict[str, Any] = {
            "width": frame.width,
            "height": frame.height,
            "frames": total,
            "rate": None if rate is None else float(rate),
            "seconds": None if rate is None or total is None else float(total / rate),
            "encoder": ends.sink.encoder_name,
            "copied": list(getattr(ends.sink, "copied", ())),
            "skipped": list(ends.sink.skipped),
            "warnings": [*ends.source.warnings, *ends.sink.warnings],
        }
    with Deblurrer(**options) as deblurrer:
        name, preset = deblurrer.engine.name, deblurrer.engine.manifest.preset
    return DryRun(str(source), str(target), engine=name, preset=preset, replaces=replaces, **found)
