# SPDX-License-Identifier: Apache-2.0
"""Addresses without what must stay secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from crispstream.errors import UsageError

NETWORK = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "udp", "tcp", "rtp")
"""Schemes of URLs that are taken for streams."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)
# A password may hold what ends a host name. Rather a path with an @ is masked, too, than half a password shown.
_USER = re.compile(r"(?<=://)(?:[^\s/?#@:]*:\S*|[^\s/?#]*)@")
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s'\")]+")
_RTMP_KEY = re.compile(r"(?i)(rtmps?://[^\s/]*/[^\s/]+)/[^\s?:,;'\")]+")
# What some recorders have in the path instead of a password: long, with letters and digits.
_PATH_KEY = re.compile(r"(?<=/)(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{16,}")
_URL = re.compile(r"://[^\s'\"]+")
# Properties of GStreamer's elements: name=value, name="a value", name=(string)'a value'.
_PROPERTY = re.compile(
    r"\b([\w-]*(?:user|pw|pass|secret|token|key|auth|cookie|header)[\w-]*)\s*=\s*"
    r"(?:\(\w+\)\s*)?(?:\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\S+)",
    re.IGNORECASE,
)


def scheme(text: str) -> str | None:
    """The scheme of a URL that is a stream, in lower case; None for what is no such URL."""
    found = _SCHEME.match(text)
    return found[0].lower() if found and found[0].lower() in NETWORK else None


def check(url: str) -> None:
    """Raise UsageError, without the address in it, for what FFmpeg would read otherwise than it was meant."""
    try:
        plain = not re.search(r"\s", url) and (urlsplit(url).port or 1)
    except ValueError:  # what should be the port is none
        plain = False
    if not plain:
        raise UsageError("the address is no URL", "in a password write / as %2F, # as %23, ? as %3F, a space as %20")


def masked(text: str) -> str:
    """``text`` with user names, passwords, stream keys and everything after a ? replaced by ***.

    Works inside sentences too, because libraries put whole URLs into their messages.
    """
    text = _PROPERTY.sub(r"\1=***", text)
    text = _USER.sub("***@", text)
    text = _QUERY.sub(r"\1?***", text)
    text = _RTMP_KEY.sub(r"\1/***", text)
    return _URL.sub(lambda url: _PATH_KEY.sub("***", url[0]), text)
