# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as the user is told: one line, a hint, an exit code."""

from __future__ import annotations


class CrispStreamError(Exception):
    """A failure with a cause the user can act on. ``hint`` says what to do next; ``exit_code`` is the CLI's."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CrispStreamError):
    """A wrong argument: unknown preset, bad size, contradictory options."""

    exit_code = 2


class InputError(CrispStreamError):
    """The input is missing, unreadable or not what it claims to be."""

    exit_code = 3


class EarlyEndError(InputError):
    """The input can be used up to a point: what came before it is finished and kept, then this is told."""


class OutputError(CrispStreamError):
    """The output cannot be written."""

    exit_code = 4


class EngineError(CrispStreamError):
    """An engine is missing, damaged or does not fit this machine."""

    exit_code = 5


class ClosedPipeError(CrispStreamError):
    """Whoever reads our standard output has seen enough. Told by the exit code alone, SIGPIPE's in a shell."""

    exit_code = 141
