# SPDX-License-Identifier: Apache-2.0
"""Who may look and how much one may ask: token, hosts and origins, rates."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from crispstream.errors import UsageError

SHORTEST_TOKEN = 16
"""Characters; ``secrets.token_urlsafe()`` makes 43."""


class RefusedError(Exception):
    """A request that is not answered: HTTP ``status`` and one line of why and what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Rate:
    """At most ``burst`` at once and ``per_second`` in the long run, for each of the last 1024 addresses."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def exhausted(self, address: str) -> bool:
        """Whether this address has used up what it has."""
        return self._now(address) < 1

    def take(self, address: str) -> None:
        """Count one for this address."""
        self._left[address] = (self._now(address) - 1, time.monotonic())
        self._left.move_to_end(address)
        if len(self._left) > 1024:
            self._left.popitem(last=False)

    def _now(self, address: str) -> float:
        left, when = self._left.get(address, (float(self._burst), 0.0))
        return min(self._burst, left + (time.monotonic() - when) * self._per_second)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address or name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests pass or raises RefusedError. ``host`` is what the server listens on.

    Raises UsageError where ``host`` is not loopback and there is no token, or the token is easily guessed.
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            hint = "set CRISPSTREAM_TOKEN, or listen on 127.0.0.1"
            raise UsageError(f"a preview page on {host} is open to the network and needs a token", hint)
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
            hint = "python3 -c 'import secrets; print(secrets.token_urlsafe())' makes a good one"
            raise UsageError(f"the preview page's token needs {SHORTEST_TOKEN} or more ASCII characters", hint)
        self._token = token
        # Stays good when the service starts again, and tells nothing about the token.
        self._cookie = hmac.new(token.encode(), b"crispstream preview", hashlib.sha256).hexdigest() if token else ""
        self._wrong = Rate(per_second=10 / 60, burst=10)
        self._posts = Rate(per_second=10, burst=30)

    def admit(self, request: web.Request) -> None:
        """Raise RefusedError unless this request may be answered."""
        try:
            self._check(request)
        except ValueError as error:  # of urlsplit
            raise RefusedError(400, "the Host or Origin header is no address") from error

    def sign_in(self, request: web.Request) -> web.Response | None:
        """For ``/?token=...``: a redirect that leaves a cookie and takes the token out of the address bar."""
        if self._token is None or "token" not in request.query:
            return None
        answer = web.Response(status=303, headers={hdrs.LOCATION: "/"})
        secure = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"
        name = self._cookie_name(request)
        answer.set_cookie(name, self._cookie, path="/", httponly=True, samesite="Strict", secure=secure)
        return answer

    def _check(self, request: web.Request) -> None:
        self._check_host(request)
        self._check_site(request)
        state_changing = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        if state_changing or hdrs.UPGRADE in request.headers:
            self._check_origin(request)
        self._check_token(request)
        if state_changing:
            if self._posts.exhausted(address_of(request)):
                raise RefusedError(429, "too many changes at once: wait a second")
            self._posts.take(address_of(request))

    def _check_host(self, request: web.Request) -> None:
        # A page of another site can have its own name resolve to 127.0.0.1; the browser still sends that name.
        # Where there is a token it protects: the cookie belongs to the name under which the token was given, and that
        # may be a proxy's.
        name = urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or ""
        if self._token is None and not is_loopback(name):
            raise RefusedError(403, "this page answers to localhost and 127.0.0.1 only")

    def _check_site(self, request: web.Request) -> None:
        # An image or a frame in another site's page could not be seen there, but would cost us an encoded picture each
        # time. Links may be followed. Browsers say so themselves (w3.org/TR/fetch-metadata), other programs need not.
        site, mode, what = (request.headers.get(f"Sec-Fetch-{name}", "") for name in ("Site", "Mode", "Dest"))
        if site in ("cross-site", "same-site") and (mode, what) != ("navigate", "document"):
            raise RefusedError(403, "another site's page may not do this")

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get(hdrs.ORIGIN)  # browsers always send it here, other programs need not
        if origin is not None and urlsplit(origin).netloc != request.headers.get(hdrs.HOST):
            raise RefusedError(403, "another site's page may not do this")

    def _check_token(self, request: web.Request) -> None:
        if self._token is None:
            return
        kind, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        given = [(bearer.strip(), self._token)] if kind.lower() == "bearer" else []
        if request.path == "/" and "token" in request.query:
            given.append((request.query["token"], self._token))
        if cookie := request.cookies.get(self._cookie_name(request)):
            given.append((cookie, self._cookie))
        # First of all, because behind a proxy the address is everybody's: one who guesses locks nobody else out.
        if any([_same(ours, theirs) for theirs, ours in given]):
            return
        address = address_of(request)
        if given and self._wrong.exhausted(address):
            raise RefusedError(429, "too many wrong tokens: wait a minute")
        if given:
            self._wrong.take(address)
        raise RefusedError(401, "a token is needed: open /?token=... once, or send 'Authorization: Bearer ...'")

    def _cookie_name(self, request: web.Request) -> str:
        # Cookies do not tell ports apart, and several streams may run on one machine.
        return f"crispstream_{urlsplit('//' + request.host).port or 0}"


def address_of(request: web.Request) -> str:
    """Whose request it is: the address, or the network where one customer has 2**64 of them (IPv6)."""
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _same(ours: str, theirs: str) -> bool:
    return hmac.compare_digest(ours.encode(), theirs.encode("utf-8", "surrogateescape"))
