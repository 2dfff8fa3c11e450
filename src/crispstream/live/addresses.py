# SPDX-License-Identifier: Apache-2.0
"""Addresses without what must stay secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from crispstream.errors import UsageError

NETWORK = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "udp", "tcp", "rtp")
"""Schemes of URLs that are taken for streams."""

LONGEST = 16 * 1024
"""Characters of a text that are kept."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)
# All of this runs on what anybody may send: nothing here takes more than time in proportion to a text's length, because
# every match begins where the one before has ended, or is bounded.
_WORD = re.compile(r"\S+")
# A password may hold what ends a host name. Rather a path with an @ is masked, too, than half a password shown.
_USER = re.compile(r"(?<=://)(?:[^/?#@:]*:.*|[^/?#]*)@")
_START = re.compile(r"[a-z0-9+.-]{0,16}://", re.IGNORECASE)
_CLOSING = {quote: re.compile(quote + r"(?!\w)") for quote in "'\""}
_RTMP_PLACE = re.compile(r"[^/?]*/[^/?]+/")  # host and application; all that follows may be the key
# What some recorders have in the path instead of a password: long, with letters and digits.
_PATH_KEY = re.compile(r"(?<=/)(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{16,}")
# Providers of television: http://host/USER/PASSWORD/NUMBER.ts.
_PATH_USER = re.compile(
    r"(?:(?<=http://)|(?<=https://))([^/]*/(?:(?:live|movie|series)/)?)[^/]+/[^/]+"
    r"(?=/\d+(?:\.\w{2,4})?(?!\w|[/.]\w))",
    re.IGNORECASE,
)
# Properties of GStreamer's elements: name=value, name="a value", name=(string)'a value'; also without the last quote.
_NAME = re.compile(r"(?<![\w-])([\w-]+)\s*=\s*")
_SECRET = re.compile(r"user|pw|pass|secret|token|key|auth|cookie|header|^(?:stream|playpath)$", re.IGNORECASE)
_VALUE = re.compile(r"(?:\(\w+\)\s*)?(?:\"(?:\\.|[^\"\\])*(?:\"|\\?$)|'(?:\\.|[^'\\])*(?:'|\\?$)|\S+)", re.DOTALL)


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
    """``text`` with what is recognised as secret replaced by ***, and what is beyond LONGEST characters by an ellipsis.

    That is: user names and passwords of addresses, everything after a ?, keys of RTMP and long ones in any path, and
    properties by their names. Works inside sentences too, because libraries put whole URLs into their messages.
    """
    if len(text) > LONGEST:
        # Half a word may be half a password, without what shows that it is one.
        whole = text[: LONGEST - 2].rsplit(None, 1)
        text = (whole[0] if len(whole) == 2 else "") + " …"
    text = _without_values(text)
    return _WORD.sub(lambda word: _without_secrets(word[0]) if "://" in word[0] else word[0], text)


def _without_values(text: str) -> str:
    """For a whole text: the properties."""
    done, at = [], 0
    for name in _NAME.finditer(text):
        if name.start() < at or not _SECRET.search(name[1]):
            continue  # inside a value that is gone; or another name may follow in this one's value
        if value := _VALUE.match(text, name.end()):
            done += [text[at : name.end(1)], "=***"]
            at = value.end()
    return "".join((*done, text[at:]))


def _without_secrets(word: str) -> str:
    """For what stands between spaces and holds at least one address."""
    before, at, after = word.rpartition("@")
    word = _USER.sub("***@", before + at) + after
    starts = list(_START.finditer(word))
    done, shown = [], 0
    for start, limit in zip(starts, [*(start.start() for start in starts[1:]), len(word)], strict=True):
        if start.start() < shown:
            continue
        hidden = _hidden(word, start, limit)
        if hidden is not None:
            done += [word[shown : hidden.start], "***"]
            shown = hidden.stop
    word = "".join((*done, word[shown:]))
    return _PATH_KEY.sub("***", _PATH_USER.sub(r"\1***/***", word))


def _hidden(word: str, start: re.Match[str], limit: int) -> slice | None:
    """Where the RTMP key or the query of the address at ``start`` stands; another one begins at ``limit``."""
    begins = [query + 1] if (query := word.find("?", start.end(), limit)) >= 0 else []
    if "rtmp" in start[0].lower() and (place := _RTMP_PLACE.match(word, start.end(), limit)):
        begins.append(place.end())
    if not begins:
        return None
    # It ends with the quote in which the address began, or with the word; other quotes may be part of a key.
    closing = _CLOSING.get(word[start.start() - 1 : start.start()])
    end = closing.search(word, min(begins)) if closing else None
    secret = word[min(begins) : end.start() if end else len(word)].rstrip("'\".,:;!?)]}>")  # what ends a sentence stays
    return slice(min(begins), min(begins) + len(secret)) if secret else None
