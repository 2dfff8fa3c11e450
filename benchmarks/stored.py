# SPDX-License-Identifier: Apache-2.0
"""A stored run, and how its benchmarks are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crispstream.errors import InputError

Benchmark = dict[str, Any]


class Run:
    """``fields``: what `make bench` wrote (``conftest``)."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.machine: dict[str, Any] = fields["machine_info"]

    @classmethod
    def read(cls, path: Path) -> Run:
        """From a JSON file."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def all(self, test: str, **params: Any) -> list[Benchmark]:
        """Those of ``test`` with these parameters, in the order of the run. Raises InputError where there is none."""
        found = [
            one for one in self.fields["benchmarks"] if one["test"] == test and params.items() <= one["params"].items()
        ]
        if not found:
            wanted = ", ".join(f"{name} {value}" for name, value in params.items())
            raise InputError(f"the run has no {test} with {wanted or 'any parameters'}", "type: make bench")
        return found

    def one(self, test: str, **params: Any) -> Benchmark:
        """The first of ``all``."""
        return self.all(test, **params)[0]
