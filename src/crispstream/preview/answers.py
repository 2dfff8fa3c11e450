# SPDX-License-Identifier: Apache-2.0
"""What all answers have, and those to what fails: one line of JSON."""

from __future__ import annotations

from aiohttp import web

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": "crispstream",
}


def failure(status: int, message: str, hint: str = "") -> web.Response:
    """The answer to a request that fails: ``error`` and, where there is one, ``hint``."""
    told = {"error": message, **({"hint": hint} if hint else {})}
    return web.json_response(told, status=status, headers=HEADERS)


async def strict(request: web.Request, response: web.StreamResponse) -> None:
    """For ``on_response_prepare``: the headers, whatever the answer is."""
    response.headers.update(HEADERS)
