# SPDX-License-Identifier: Apache-2.0
"""What a run did, in plain types."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RunReport:
    """The figures of one ``crispstream.run``; ``to_dict`` gives what ``--json`` prints.

    ``seconds`` is wall-clock time from the first read to the finished file, ``fps`` is ``frames / seconds``.
    ``stages``: seconds each of decode, deblur and encode was busy; they overlap. ``width`` and ``height`` are those of
    the first frame. ``skipped``: streams the output cannot hold. ``failed``: (name, reason) of unreadable pictures.
    ``warnings``: what was changed or could not be read.
    """

    input: str
    output: str
    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    stages: dict[str, float]
    encoder: str
    drops: int = 0
    interrupted: bool = False
    skipped: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)
