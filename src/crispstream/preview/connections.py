# SPDX-License-Identifier: Apache-2.0
"""Connections that cost nothing for long: too many, without a request, or with an answer that nobody reads."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from crispstream.preview.answers import HEADERS, failure

_logger = logging.getLogger("crispstream.live")


class _Full(asyncio.Protocol):
    """Says that there is no room, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        body = json.dumps({"error": "too many connections: close a page or try again later"}).encode() + b"\n"
        lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in HEADERS.items())]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "", ""]
        transport.write("\r\n".join(lines).encode() + body)
        transport.close()


class _Handler(web.RequestHandler):
    """aiohttp's, but what is no request has our answer, and nothing of it is logged: anybody may send it.

    ``gone`` is called with it when its connection has ended.
    """

    __slots__ = ("_gone",)

    def __init__(self, server: web.Server, *, gone: Callable[[web.RequestHandler], None], **options: Any) -> None:
        super().__init__(server, **options)
        self._gone = gone

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no longer."""
        super().connection_lost(exc)
        self._gone(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """``message`` and ``exc`` hold what was sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent")
        if status >= 500:
            _logger.error("preview: no answer can be given: %.200r", exc)
        answer = failure(status, "this is no HTTP request" if status < 500 else "the server has failed: see its log")
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """An Expect header is refused before the application sees the request, and with its text in the answer."""
        if isinstance(resp, web.HTTPException):
            resp = failure(resp.status, resp.reason.lower())
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A connection ends because of this."""
        _logger.debug("preview: %.200s", " ".join(map(repr, (*args, kw.get("exc_info")))))


@dataclass
class _Watched:
    """One connection; times of the loop's clock. ``since``: when it began to wait for us to act."""

    since: float
    began: bool = False
    viewer: bool = False
    unread: int = 0


class Connections:
    """Makes a protocol for each connection, at most ``most`` at once.

    ``patience``: seconds for the head of the first request, and until something of an answer is read.
    """

    def __init__(self, server: web.Server, most: int, patience: float) -> None:
        self._server, self._most, self._patience = server, most, patience
        self._watched: dict[web.RequestHandler, _Watched] = {}

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        if len(self._watched) >= self._most:
            return _Full()
        protocol = _Handler(
            self._server,
            gone=self._forget,
            loop=asyncio.get_running_loop(),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._patience,
            lingering_time=0,
        )
        self._watched[protocol] = _Watched(asyncio.get_running_loop().time())
        return protocol

    def began(self, request: web.Request) -> None:
        """The head of a request is complete; aiohttp closes what is idle between requests, and we what is not read."""
        if (watched := self._watched.get(request.protocol)) is not None:  # else it has ended meanwhile
            watched.began = True

    def upgraded(self, request: web.Request) -> None:
        """The request was let in and is a WebSocket now: ``Viewers`` watches it from here on."""
        if (watched := self._watched.get(request.protocol)) is not None:
            watched.viewer = True

    async def run(self) -> None:
        """Close what waits for too long, for ever."""
        while True:
            await asyncio.sleep(self._patience / 4)
            now = asyncio.get_running_loop().time()
            for protocol, watched in self._watched.items():
                transport = protocol.transport
                if not isinstance(transport, asyncio.WriteTransport) or watched.viewer:
                    continue
                unread = transport.get_write_buffer_size()
                if watched.began and (unread == 0 or unread < watched.unread):
                    watched.since = now
                watched.unread = unread
                if now - watched.since > self._patience:
                    transport.abort()

    def _forget(self, protocol: web.RequestHandler) -> None:
        self._watched.pop(protocol, None)
