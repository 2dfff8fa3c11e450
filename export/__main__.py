# SPDX-License-Identifier: Apache-2.0
"""``python -m crispstream.export PRESET --weights FILE --output FOLDER``: trained weights to an engine folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from crispstream.errors import CrispStreamError, InputError
from crispstream.model.presets import preset

from .build import build


def main() -> int:
    """Build, say what was written, return the exit code (``crispstream --help`` lists them)."""
    parser = argparse.ArgumentParser(prog="python -m crispstream.export", description="Weights to an engine folder.")
    parser.add_argument("preset", help="nano, small or base")
    parser.add_argument("--weights", type=Path, required=True, help="FP16 safetensors, as training writes them")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, such as engines/nano")
    parser.add_argument("--training", type=Path, help="JSON: what the weights were trained on and how")
    parser.add_argument("--quality", type=Path, help="JSON: quality figures of the weights")
    arguments = parser.parse_args()
    try:
        made = build(
            preset(arguments.preset),
            arguments.weights,
            arguments.output,
            _read_json(arguments.training),
            _read_json(arguments.quality),
        )
    except CrispStreamError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    files = [file.file for file in (*made.graphs.values(), made.weights)]
    print(f"{made.folder}: {', '.join(files)}, {made.parameters} parameters")
    print(f"next: crispstream verify {made.folder}")
    return 0


def _read_json(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return found


if __name__ == "__main__":
    sys.exit(main())
