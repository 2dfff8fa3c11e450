# SPDX-License-Identifier: Apache-2.0
"""Addresses without what must stay secret."""

from __future__ import annotations

import re

NETWORK = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "udp", "tcp", "rtp")
"""Schemes of URLs that are taken for streams."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(?<=[?&;])([^=&;\s#]+)=[^&;\s#]*")
# What cameras and services carry in the path or the pipeline instead of user and password.
_PROPERTY = re.compile(r"\b([\w-]*(?:user|pw|pass|secret|token|key|auth)[\w-]*)\s*=\s*(\"[^\"]*\"|\S+)", re.IGNORECASE)
_RTMP_KEY = re.compile(r"(?i)(?<=rtmp://|rtmps:/)(/?[^/\s]*/[^/\s]+)/[^\s?#]+")


def scheme(text: str) -> str | None:
    """The scheme of a URL that is a stream, in lower case; None for what is no such URL."""
    found = _SCHEME.match(text)
    return found[0].lower() if found and found[0].lower() in NETWORK else None


def masked(text: str) -> str:
    """``text`` with user names, passwords, stream keys and the values of query parameters replaced by ***.

    Works inside sentences too, because libraries put whole URLs into their messages.
    """
    text = _USER.sub("***@", text)
    text = _QUERY.sub(r"\1=***", text)
    text = _PROPERTY.sub(r"\1=***", text)
    return _RTMP_KEY.sub(r"\1/***", text)
