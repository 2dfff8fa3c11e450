# SPDX-License-Identifier: Apache-2.0
"""One line an event on standard error: for people, or as JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

from crispstream.live.addresses import masked


class _Lines(logging.Formatter):
    """``2026-01-31T12:00:00+0000 warning message``; whatever a library puts into a message, secrets are masked."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(" ".join(super().format(record).splitlines()))


class _Json(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        fields = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if isinstance(figures := getattr(record, "figures", None), dict):
            fields |= figures
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps({key: masked(value) if isinstance(value, str) else value for key, value in fields.items()})


def log_to_stderr(as_json: bool, level: int) -> None:
    """Send what the "crispstream" loggers say to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Lines("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    logger = logging.getLogger("crispstream")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # FFmpeg's own lines hold whole addresses
