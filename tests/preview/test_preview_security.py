# SPDX-License-Identifier: Apache-2.0
"""Who may look at the preview page: tokens, cookies, hosts and origins."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from preview_stub import StubSession

from crispstream.errors import UsageError
from crispstream.preview import security
from crispstream.preview.security import Rate, is_loopback
from crispstream.preview.server import PreviewServer

TOKEN = "a token of enough characters"
GOOD = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def open_server() -> Iterator[PreviewServer]:
    server = PreviewServer(StubSession(), port=0)
    server.start()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[PreviewServer]:
    server = PreviewServer(StubSession(), port=0, token=TOKEN)
    server.start()
    yield server
    server.close()


def asking(server: PreviewServer, what: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        # Cookies of an address without a name are kept only if this is said.
        async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            return await what(client)

    return asyncio.run(run())


async def status_of(client: Any, method: str, path: str, **options: Any) -> int:
    async with client.request(method, path, allow_redirects=False, **options) as answer:
        return answer.status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.example"])
def test_the_network_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="needs a token"):
        PreviewServer(StubSession(), host=host)
    PreviewServer(StubSession(), host=host, token=TOKEN)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "smörgåsbord and more", "with\na line break in it"])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(UsageError, match="16 or more"):
        PreviewServer(StubSession(), host="0.0.0.0", token=token)


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1")))


def test_every_path_asks_for_the_token(server: PreviewServer) -> None:
    async def ask(client: Any) -> None:
        paths = [("GET", p) for p in ("/", "/static/main.js", "/status", "/metrics", "/snapshot.jpg", "/ws", "/none")]
        for method, path in [*paths, ("POST", "/control")]:
            assert await status_of(client, method, path) == 401, path
        assert await status_of(client, "GET", "/status", headers=GOOD) == 200
        assert await status_of(client, "GET", "/status", headers={"Authorization": f"bearer {TOKEN}"}) == 200
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect("/ws")
        await (await client.ws_connect("/ws", headers=GOOD)).close()

    asking(server, ask)


@pytest.mark.parametrize(
    "given", ["Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff\udcfe"]
)
def test_wrong_tokens(server: PreviewServer, given: str) -> None:
    async def ask(client: Any) -> None:
        assert await status_of(client, "GET", "/status", headers={"Authorization": given}) == 401

    asking(server, ask)


def test_the_token_in_the_address_becomes_a_cookie_and_leaves_the_address_bar(server: PreviewServer) -> None:
    async def ask(client: Any) -> None:
        async with client.get("/", params={"token": TOKEN}, allow_redirects=False) as answer:
            assert answer.status == 303 and answer.headers["Location"] == "/"
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert await status_of(client, "GET", "/") == 200
        assert await status_of(client, "POST", "/control", json={"strength": 1}) == 200
        await (await client.ws_connect("/ws")).close()
        client.cookie_jar.clear()
        assert await status_of(client, "GET", "/status", params={"token": TOKEN}) == 401, "only the page takes it"
        assert await status_of(client, "GET", "/", params={"token": TOKEN[:-1]}) == 401

    asking(server, ask)


def test_who_guesses_locks_nobody_else_out(server: PreviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy all have one address."""
    # Its clock alone stands still: guesses on a slow machine are not fewer a second.
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: 100.0))

    async def ask(client: Any) -> None:
        assert await status_of(client, "GET", "/", params={"token": TOKEN}) == 303
        cookies = {cookie.key: cookie.value for cookie in client.cookie_jar}
        client.cookie_jar.clear()
        wrong = {"Authorization": "Bearer wrong"}
        statuses = [await status_of(client, "GET", "/status", headers=wrong) for _ in range(15)]
        assert statuses == [401] * 10 + [429] * 5
        assert await status_of(client, "GET", "/status", headers=GOOD) == 200
        assert await status_of(client, "GET", "/status", cookies=cookies) == 200
        client.cookie_jar.clear()
        assert await status_of(client, "GET", "/status", headers=wrong) == 429, "nothing is forgiven for it"
        assert await status_of(client, "GET", "/status") == 401, "who does not guess is not counted"

    asking(server, ask)


def test_a_rate_recovers_and_keeps_few_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: now[0]))  # threads keep the real one
    rate = Rate(per_second=2, burst=3)
    for _ in range(3):
        assert not rate.exhausted("a")
        rate.take("a")
    assert rate.exhausted("a") and not rate.exhausted("b")
    now[0] += 0.6
    assert not rate.exhausted("a")
    for i in range(5000):
        rate.take(str(i))
    assert len(rate._left) == 1024


def test_a_foreign_name_for_this_machine_is_refused(open_server: PreviewServer) -> None:
    """DNS rebinding: a site's own name resolves to 127.0.0.1, and its page asks as if it were us."""
    port = open_server.url.rsplit(":", 1)[1].strip("/")

    async def ask(client: Any) -> None:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.168.1.5", "", "["):
            assert await status_of(client, "GET", "/status", headers={"Host": host}) in (400, 403), host
        for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1:9000", "[::1]:80"):
            assert await status_of(client, "GET", "/status", headers={"Host": host}) == 200, host

    asking(open_server, ask)


def test_who_is_refused_keeps_no_place(server: PreviewServer) -> None:
    async def ask(client: Any) -> None:
        for headers, kept in (({}, False), ({"Authorization": "Bearer wrong"}, False), (GOOD, True)):
            async with client.get("/status", headers=headers) as answer:
                assert (answer.headers.get("Connection") != "close") == kept, headers

    asking(server, ask)


def test_a_proxy_may_pass_its_own_name_on(server: PreviewServer) -> None:
    async def ask(client: Any) -> None:
        proxied = {**GOOD, "Host": "camera.example"}
        own, foreign = ({**proxied, "Origin": f"https://{name}.example"} for name in ("camera", "evil"))
        assert await status_of(client, "GET", "/status", headers=proxied) == 200
        assert await status_of(client, "GET", "/status", headers={"Host": "camera.example"}) == 401
        assert await status_of(client, "POST", "/control", json={"strength": 1}, headers=own) == 200
        assert await status_of(client, "POST", "/control", json={"strength": 1}, headers=foreign) == 403
        await (await client.ws_connect("/ws", headers=own)).close()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect("/ws", headers=foreign)

    asking(server, ask)


def test_pages_of_other_sites_change_nothing_and_see_nothing(open_server: PreviewServer) -> None:
    port = open_server.url.rsplit(":", 1)[1].strip("/")

    async def ask(client: Any) -> None:
        for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1", "http://["):
            headers = {"Origin": origin}
            assert await status_of(client, "POST", "/control", json={"strength": 0}, headers=headers) in (400, 403), (
                origin
            )
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect("/ws", headers=headers)
        own = {"Origin": f"http://127.0.0.1:{port}"}
        assert await status_of(client, "POST", "/control", json={"strength": 0}, headers=own) == 200
        await (await client.ws_connect("/ws", headers=own)).close()
        # A form of another site cannot send JSON without asking first, and nobody answers that question.
        assert await status_of(client, "POST", "/control", data="strength=0") == 415
        assert await status_of(client, "OPTIONS", "/control", headers={"Origin": "http://evil.example"}) == 403

    asking(open_server, ask)


def test_pages_of_other_sites_embed_nothing(open_server: PreviewServer) -> None:
    def fetched(site: str, mode: str, what: str) -> dict[str, str]:
        return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": what}

    async def ask(client: Any) -> None:
        for site in ("cross-site", "same-site"):  # another port of this machine is the same site
            for how in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty")):
                assert await status_of(client, "GET", "/snapshot.jpg", headers=fetched(site, *how)) == 403, how
            assert await status_of(client, "GET", "/", headers=fetched(site, "navigate", "document")) == 200
        for site in ("same-origin", "none"):
            assert await status_of(client, "GET", "/status", headers=fetched(site, "no-cors", "image")) == 200

    asking(open_server, ask)


@pytest.mark.parametrize("package", ["aiohttp", "cv2"])
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.startswith("crispstream.preview")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs {package}") as error:
        importlib.import_module("crispstream.preview.server")
    assert error.value.hint == "pip install 'crispstream[live]'"
