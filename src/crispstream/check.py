# SPDX-License-Identifier: Apache-2.0
"""One finding of the self-check."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from crispstream.errors import CrispStreamError


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``status`` is "ok", "missing" or "broken"; ``needed`` says that the default path stops without it.

    ``hint`` is what to type or do about it, empty where nothing needs to be done.
    """

    name: str
    status: str
    detail: str
    hint: str = ""
    needed: bool = False


def failed(name: str, error: CrispStreamError, missing: bool = False) -> Check:
    """What an error says, as a finding."""
    return Check(name, "missing" if missing else "broken", str(error), error.hint)


def version(module: str) -> str:
    """The version of an installed module, "" where there is none; it is not imported."""
    if find_spec(module) is None:
        return ""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return "installed"  # under another name than the module has
