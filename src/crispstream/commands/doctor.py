# SPDX-License-Identifier: Apache-2.0
"""`crispstream doctor`: what is here, what is missing, what to type."""

from __future__ import annotations

from dataclasses import asdict

from crispstream.commands.common import Debug, Json, Report
from crispstream.errors import EngineError


def doctor(as_json: Json = False, debug: Debug = False) -> Report:
    """Say what is here, what is missing and what to type."""
    from crispstream.doctor import diagnose, healthy

    checks = diagnose()
    lines = [f"{c.status:8}{c.name}: {c.detail}" + (f"\n        {c.hint}" if c.hint else "") for c in checks]
    good = healthy(checks)
    lines.append("The default path works." if good else "The default path does not work.")
    data = {"healthy": good, "checks": [asdict(check) for check in checks]}
    return Report(data, "\n".join(lines), 0 if good else EngineError.exit_code)
