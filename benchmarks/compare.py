# SPDX-License-Identifier: Apache-2.0
"""What became slower between two runs: ``python -m benchmarks.compare OLD.json NEW.json``.

Compared are costs: times over a limit that was timed in turn with them (a copy from memory, the reference convolution,
...), so that the runs may be of a busy and of an idle machine. Exit code 1: something costs more than the threshold
allows, or the runs have nothing in common.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

THRESHOLD = 0.15


def compare(old: dict[str, Any], new: dict[str, Any], threshold: float = THRESHOLD) -> dict[str, float]:
    """New cost over old of every benchmark that both runs have and that costs more than 1 + ``threshold`` times as
    much, by name."""
    found = {}
    before = costs(old)
    for name, cost in costs(new).items():
        if name in before and cost > before[name] * (1 + threshold):
            found[name] = cost / before[name]
    return found


def costs(run: dict[str, Any]) -> dict[str, float]:
    """The cost of each benchmark that has one, by name."""
    return {one["name"]: one["cost"] for one in run["benchmarks"] if "cost" in one}


def main(arguments: list[str] | None = None) -> int:
    """Print what is slower; 1 where anything is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="part of the cost that may be added: 0.15")
    options = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (options.old, options.new))
    slower = compare(old, new, options.threshold)
    for name, ratio in sorted(slower.items(), key=lambda item: -item[1]):
        print(f"{ratio:5.2f}  {name}")
    both = costs(old).keys() & costs(new).keys()
    print(f"{len(slower)} of {len(both)} cost more than {1 + options.threshold:g} times as much", end="")
    print(f"; {len(costs(old)) - len(both)} of the old run are not in the new one")
    for key in sorted(old["machine_info"].keys() | new["machine_info"].keys()):
        was, now = (run["machine_info"].get(key) for run in (old, new))
        if was != now:
            print(f"{key}: {was}, now {now}")
    return 1 if slower or not both else 0


if __name__ == "__main__":
    sys.exit(main())
