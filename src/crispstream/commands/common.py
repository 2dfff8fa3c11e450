# SPDX-License-Identifier: Apache-2.0
"""What the commands share: their report, options that several of them take, figures and sizes as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import typer

from crispstream.errors import EngineError, UsageError

INTERRUPTED = 130


def _presets(incomplete: str) -> list[str]:
    """What a shell may complete."""
    from crispstream.model.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


_PRESET = "Preset, as `crispstream engines` lists them."
PresetArgument = Annotated[str, typer.Argument(help=_PRESET, autocompletion=_presets)]
PresetOption = Annotated[str, typer.Option(help=_PRESET, autocompletion=_presets)]
Strength = Annotated[float, typer.Option(min=0.0, max=2.0, help="How much of the correction is applied.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; the CPU quota if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
# `main` looks for these two itself: they count for errors before the options are parsed, too.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True, slots=True)
class Report:
    """What a command found: ``data`` for ``--json``, ``text`` for people, and the exit code."""

    data: dict[str, Any]
    text: str
    exit_code: int = 0


def frame_rate(text: str) -> Fraction:
    """Frames a second from "25", "29.97" or "30000/1001". Raises UsageError."""
    if not re.fullmatch(r"\d{1,7}(\.\d{1,6}|/[1-9]\d{0,6})?", text):
        raise UsageError(f"'{text}' is no frame rate", "frames a second, such as 25 or 30000/1001")
    return Fraction(text)


def frame_size(text: str) -> tuple[int, int]:
    """Width and height in pixels from "640x360". Raises UsageError."""
    from crispstream.frame import MAX_SIDE

    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UsageError(f"'{text}' is not a frame size", "WIDTHxHEIGHT, such as 640x360")
    width, height = int(match[1]), int(match[2])
    if max(width, height) > MAX_SIDE:
        raise UsageError(f"'{text}' is too large", f"a side may have {MAX_SIDE} pixels at most")
    return width, height


def short(value: Any) -> str:
    """A figure for people: floats to four digits, nested ones in line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(short(item) for item in value)
    return str(value)


def missing_extra(error: ModuleNotFoundError, extra: str, modules: tuple[str, ...]) -> Exception:
    """The failure to raise for ``error``: a hint where an extra of ours was left out, else the error itself."""
    if (error.name or "").partition(".")[0] not in modules:
        return error
    return EngineError(f"this needs {error.name}, which is not installed", f"pip install 'crispstream[{extra}]'")
