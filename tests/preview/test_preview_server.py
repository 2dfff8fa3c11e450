# SPDX-License-Identifier: Apache-2.0
"""The preview page's server, with a real client: what it answers, and what it costs when somebody behaves badly."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import math
import resource
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from chromium import wait_for
from ports import free_port
from preview_stub import StubSession, drawn_shot, feeding

from crispstream.errors import OutputError
from crispstream.preview import encode, security
from crispstream.preview.answers import HEADERS
from crispstream.preview.server import MAX_VIEWERS, PreviewServer
from crispstream.preview.server import Session as SessionProtocol

Client = aiohttp.ClientSession
PATIENCE = 4.0
"""Seconds, of a server in tests of it: more than a machine may freeze for without anybody being cut off."""
impatient = pytest.mark.parametrize("server", [PATIENCE], indirect=True, ids=["impatient"])


@pytest.fixture
def session() -> StubSession:
    return StubSession()


@pytest.fixture
def server(session: StubSession, request: pytest.FixtureRequest) -> Iterator[PreviewServer]:
    server = PreviewServer(session, port=0, patience=getattr(request, "param", 60.0))
    server.start()
    yield server
    server.close()


def asking(server: PreviewServer, what: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    """The result of ``what`` with a client of this server."""

    async def run() -> Any:
        async with Client(server.url, **options) as client:
            return await what(client)

    return asyncio.run(run())


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged, without what Python's collector finds of clients of earlier tests, whenever it comes to them."""
    return [record for record in caplog.records if not record.getMessage().startswith("Unclosed ")]


def test_the_stub_is_a_session(session: StubSession) -> None:
    checked: SessionProtocol = session
    assert checked.status()["source"]["state"] == "live"


def test_status_metrics_and_page(server: PreviewServer) -> None:
    async def ask(client: Client) -> None:
        async with client.get("/status") as answer:
            assert (await answer.json())["frames"] == {"in": 1, "out": 0}
        async with client.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "crispstream_preview_viewers 0\n" in await answer.text()
        for path, kind in (("/", "html"), ("/static/main.js", "javascript"), ("/static/style.css", "css")):
            async with client.get(path) as answer:
                assert answer.status == 200 and kind in answer.headers["Content-Type"]

    asking(server, ask)


def test_every_answer_has_strict_headers_and_failures_are_one_line_of_json(server: PreviewServer) -> None:
    async def ask(client: Client) -> None:
        for method, path, status in (
            ("GET", "/", 200),
            ("GET", "/status", 200),
            ("GET", "/snapshot.jpg", 503),
            ("GET", "/snapshot.jpg?side=left", 400),
            ("GET", "/nothing", 404),
            ("GET", "/static/..%2fserver.py", 404),
            ("GET", "/static/none.js", 404),
            ("DELETE", "/status", 405),
            ("GET", "/ws", 400),
            ("POST", "/control", 415),
        ):
            async with client.request(method, path) as answer:
                assert answer.status == status, path
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
                assert "unsafe" not in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert answer.headers["Cache-Control"] == "no-store"
                assert "aiohttp" not in answer.headers["Server"]
                if status != 200:
                    body = await answer.text()
                    assert json.loads(body)["error"] and "\n" not in body

    asking(server, ask)


def test_control(server: PreviewServer, session: StubSession) -> None:
    async def ask(client: Client) -> None:
        async def post(body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
            async with client.post("/control", json=body, **options) as answer:
                return answer.status, await answer.json()

        assert await post({"strength": 1.5}) == (200, {"ok": True}) and session.strength == 1.5
        assert await post({"strength": 3}) == (400, {"error": "strength is a number from 0 to 2"})
        assert await post({"preset": "small"}) == (200, {"ok": True})
        assert await post({"backend": "torch"}) == (200, {"ok": True})
        assert await post({"preset": "nano"}) == (200, {"ok": True})
        assert session.asked == [("small", "auto"), ("small", "torch"), ("nano", "torch")], "the rest stays"
        wrong = await post({"preset": "huge"})
        assert wrong == (400, {"error": "unknown preset 'huge'", "hint": "known presets: nano, small"})
        for nonsense in ({}, [], "strength", {"strength": "much"}, {"strength": True}, {"preset": 3}, {"volume": 1}):
            assert (await post(nonsense))[0] == 400, nonsense
        asked = list(session.asked)
        for half in (
            {"strength": 0.3, "preset": "huge"},
            {"strength": 0.3, "backend": 1},
            {"strength": 3, "preset": "small"},
        ):
            assert (await post(half))[0] == 400, half
        assert session.strength == 1.5 and session.asked == asked, "all of it or nothing"
        assert await post({"strength": 0.5, "preset": "small"}) == (200, {"ok": True})
        assert session.strength == 0.5 and session.asked[-1][0] == "small"

    asking(server, ask)


@pytest.mark.parametrize(
    ("body", "charset"),
    [("{", "utf-8"), ("[" * 50_000, "utf-8"), ('{"strength": 1}', "foo"), (b"\xff", "utf-8")]
    + [(f'{{"strength": {number}}}', "utf-8") for number in ("9" * 400, "9" * 5000, "1e999", "NaN", "-Infinity")],
    ids=["cut", "deep", "charset", "bytes", "400 digits", "5000 digits", "huge", "nan", "infinite"],
)
def test_control_of_nonsense_is_one_line_and_not_logged(
    server: PreviewServer, session: StubSession, caplog: pytest.LogCaptureFixture, body: str | bytes, charset: str
) -> None:
    async def ask(client: Client) -> None:
        kind = {"Content-Type": f"application/json; charset={charset}"}
        async with client.post("/control", data=body, headers=kind) as answer:
            assert answer.status == 400 and answer.content_type == "application/json"
            assert (await answer.json())["error"]

    asking(server, ask)
    assert session.strength == 1 and not said(caplog)


def test_what_nobody_thought_of_is_one_line_too(
    server: PreviewServer, session: StubSession, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "set_strength", lambda value: 1 / 0)
    monkeypatch.setattr(session, "presets", lambda: 1 / 0)

    async def ask(client: Client) -> None:
        async with client.post("/control", json={"strength": 1}) as answer:
            assert answer.status == 500 and "log" in (await answer.json())["error"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="500"):
            await client.ws_connect("/ws")

    asking(server, ask)
    lines = [record.getMessage() for record in said(caplog)]
    assert len(lines) == 2 and lines[0] == "preview: POST '/control' fails: ZeroDivisionError('division by zero')"
    assert not any(record.exc_info for record in caplog.records)


def test_snapshot(server: PreviewServer) -> None:
    server.sink.write(drawn_shot())

    async def ask(client: Client) -> None:
        pictures = {}
        for side in ("before", "after"):
            async with client.get(f"/snapshot.jpg?side={side}") as answer:
                assert answer.content_type == "image/jpeg"
                pictures[side] = await answer.read()
        assert pictures["before"][:2] == b"\xff\xd8" and pictures["before"] != pictures["after"]

    asking(server, ask)


def test_a_snapshot_is_encoded_once(server: PreviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    original, encoded = encode.jpeg, list[bytes]()
    monkeypatch.setattr(encode, "jpeg", lambda frame: encoded.append(original(frame)) or encoded[-1])

    async def ask(client: Client) -> None:
        for number in range(2):
            server.sink.write(drawn_shot(strength=1 + number))
            for _ in range(5):
                for side in ("before", "after"):
                    async with client.get(f"/snapshot.jpg?side={side}") as answer:
                        assert await answer.read() == encoded[2 * number + (side == "after")]

    asking(server, ask)
    assert len(encoded) == 4


async def pictures(viewer: Any, seconds: float = 60.0, enough: float = math.inf, acknowledge: bool = True) -> list[int]:
    """Numbers of the pictures that come within ``seconds``, until there are ``enough`` or the connection ends."""
    numbers, end = [], time.monotonic() + seconds
    while len(numbers) < enough and (left := end - time.monotonic()) > 0:
        try:
            message = await viewer.receive(timeout=left)
        except asyncio.TimeoutError:
            break
        if message.type is aiohttp.WSMsgType.BINARY:
            (length,) = struct.unpack_from("<I", message.data)
            numbers.append(json.loads(message.data[4 : 4 + length])["number"])
            if acknowledge:
                await viewer.send_json({"drawn": numbers[-1]})
        elif message.type is not aiohttp.WSMsgType.TEXT:
            break
    return numbers


def test_a_viewer_is_told_everything_and_gets_the_newest_picture(server: PreviewServer, session: StubSession) -> None:
    async def look(client: Client) -> None:
        async with client.ws_connect("/ws") as viewer:
            hello = json.loads((await viewer.receive(timeout=60)).data)
            assert hello["hello"]["presets"] == ["nano", "small"] and hello["hello"]["backends"][0] == "auto"
            assert 1 <= len(hello["history"]) <= time.monotonic() - begin + 1, "a sample a second"
            numbers = await pictures(viewer, enough=15)
            for _ in range(20):  # a queue would fall behind for ever, a busy machine does for moments
                if numbers[-1] >= session.count - 4:
                    break
                numbers += await pictures(viewer, enough=15)
            else:
                raise AssertionError("not the newest pictures")
            assert len(numbers) >= 15 and numbers == sorted(set(numbers))
            await viewer.send_json({"paused": True})
            (ours,) = server._viewers.all
            await until(lambda: ours.paused)
            assert len(await pictures(viewer, 2)) <= 3, "but what was under way"
            await viewer.send_json({"paused": False})
            assert len(await pictures(viewer, enough=6)) == 6

    begin = time.monotonic() - 1  # the server has started before
    with feeding(server.sink, session):
        asking(server, look)
    assert server._viewers.encoded <= 15 * (time.monotonic() - begin) + 1, "at most 15 pictures a second are encoded"


async def until(condition: Callable[[], object]) -> None:
    """Wait for it while the client's loop goes on."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def test_nothing_is_encoded_while_nobody_looks(server: PreviewServer, session: StubSession) -> None:
    with feeding(server.sink, session):
        wait_for(lambda: session.count > 10, "frames")
    assert server._viewers.encoded == 0


def test_who_comes_while_the_source_is_silent_sees_its_last_picture(server: PreviewServer) -> None:
    server.sink.write(drawn_shot(12))

    async def look(client: Client) -> None:
        async with client.ws_connect("/ws") as viewer:
            assert await pictures(viewer, enough=1) == [12]
            assert await pictures(viewer, 0.5) == []

    asking(server, look)


@impatient
def test_twenty_viewers_and_one_that_never_reads(server: PreviewServer, session: StubSession) -> None:
    """Frames keep coming at their rate, everybody else keeps seeing them, memory stays flat, the stuck one goes."""
    stuck = upgraded(server)

    async def look(client: Client) -> tuple[list[int], float]:
        viewers = [await client.ws_connect("/ws", max_msg_size=2**24) for _ in range(20)]
        await asyncio.gather(*(pictures(viewer, enough=10) for viewer in viewers))
        for _ in range(5):  # what is unfair or leaks does so every time
            memory = resident_bytes()
            seen = [len(numbers) for numbers in await asyncio.gather(*(pictures(viewer, 4) for viewer in viewers))]
            grown = resident_bytes() - memory
            if min(seen) > 0.8 * max(seen) and min(seen) > 20 and grown < 8 * 2**20:
                break
        await asyncio.gather(*(viewer.close() for viewer in viewers))
        return seen, grown

    with feeding(server.sink, session) as took:
        start, before = time.monotonic(), session.count
        seen, grown = asking(server, look)
        wait_for(lambda: (session.count - before) / (time.monotonic() - start) > 24.5, "the stream is at its rate")
        wait_for(lambda: server._viewers.dropped == 1, "the viewer that never reads is dropped")
    stuck.close()
    assert sorted(took)[len(took) // 2] < 0.01
    assert max(took) < PATIENCE, "the stream was held up by the one who never reads"
    assert min(seen) > 0.8 * max(seen) and min(seen) > 20
    assert grown < 8 * 2**20
    wait_for(lambda: not server._viewers.all, "nobody looks any more")


@impatient
def test_a_viewer_that_reads_but_never_answers_is_sent_two_pictures(
    server: PreviewServer, session: StubSession
) -> None:
    async def look(client: Client) -> list[int]:
        async with client.ws_connect("/ws") as viewer:
            return await pictures(viewer, acknowledge=False)

    with feeding(server.sink, session):
        assert len(asking(server, look)) == 2
    assert server._viewers.dropped == 1


def test_a_viewer_that_floods_or_talks_nonsense_is_sent_away(server: PreviewServer) -> None:
    async def look(client: Client) -> None:
        for messages in (["{}"] * 1000, ["nonsense"], ["x" * 5000], ["[]"]):
            async with client.ws_connect("/ws") as viewer:
                with suppress(aiohttp.ClientError, ConnectionError):  # it is over before all is said
                    for message in messages:
                        await viewer.send_str(message)
                while not viewer.closed:
                    await viewer.receive(timeout=60)

    asking(server, look)
    wait_for(lambda: not server._viewers.all, "all have left")


def test_viewers_are_bounded(server: PreviewServer) -> None:
    async def look(client: Client) -> None:
        viewers = [await client.ws_connect("/ws") for _ in range(MAX_VIEWERS)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect("/ws")
        assert refused.value.status == 503
        await viewers[0].close()
        await until(lambda: len(server._viewers.all) < MAX_VIEWERS)
        await (await client.ws_connect("/ws")).close()

    asking(server, look)


def test_connections_are_bounded(server: PreviewServer) -> None:
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/")))
    idle = [socket.create_connection(address) for _ in range(4 * MAX_VIEWERS)]
    with socket.create_connection(address) as one_more:
        assert one_more.recv(100).startswith(b"HTTP/1.1 503 ")
    for connection in idle:
        connection.close()

    async def status(client: Client) -> int:
        async with client.get("/status") as answer:
            return answer.status

    def answered() -> bool:
        with suppress(aiohttp.ClientError):  # who finds no room may be hung up on while asking
            return asking(server, status) == 200
        return False

    wait_for(answered, "there is room again")


def raw(server: PreviewServer) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/"))))
    connection.settimeout(60)
    return connection


def upgraded(server: PreviewServer) -> socket.socket:
    """A WebSocket that nobody reads."""
    connection = raw(server)
    lines = ["GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def seconds_until_closed(connection: socket.socket, trickle: bytes = b"") -> float:
    start = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - start < 60:
        try:
            if trickle:
                connection.sendall(trickle)
            if not connection.recv(1000):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - start


@impatient
@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX-Slow: ",
        b"POST /control HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{",
    ],
    ids=["silent", "header", "second header", "body"],
)
def test_slow_loris(server: PreviewServer, start: bytes) -> None:
    """A byte at a time, for ever: closed within the patience and what is left of a sweep, and not after a minute."""
    with raw(server) as connection:
        connection.sendall(start)
        assert seconds_until_closed(connection, b"x" if start else b"") < PATIENCE + 20


@impatient
@pytest.mark.parametrize("claim", ["", "Upgrade: x\r\n"])
def test_an_answer_that_nobody_reads(server: PreviewServer, claim: str) -> None:
    """Who asks and never reads is cut off, not waited for, whatever a header claims to become."""
    server.sink.write(drawn_shot(0, 1280, 720))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1].strip("/"))))
        connection.setblocking(False)
        request = f"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n{claim}\r\n".encode() * 20
        end = time.monotonic() + 60
        with pytest.raises(OSError, match=r"reset|Broken"):
            while time.monotonic() < end:
                try:
                    connection.send(request)
                except BlockingIOError:
                    time.sleep(0.05)
    assert time.monotonic() < end


def test_large_requests(server: PreviewServer, session: StubSession) -> None:
    async def ask(client: Client) -> None:
        body = json.dumps({"strength": 2, "padding": "x" * 70_000})
        async with client.post("/control", data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 413 and "65536" in (await answer.json())["error"]
        async with client.get("/status", headers={"X-Long": "x" * 20_000}) as answer:
            assert answer.status == 400

    asking(server, ask)
    assert session.strength == 1


HEAD = b"POST /control HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"rtsp://u:secret@cam/1 secret\r\n\r\n",
        b"GET / secret/1.1\r\n\r\n",
        b"GET /" + b"secret" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad secret\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad " + b"-key" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"://a:" * 6000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: secret\r\n\r\n",
        HEAD + b"Content-Length: secret\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nsecret\r\n",
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"str\r\nsecret\r\n',
        HEAD + b"Content-Encoding: deflate\r\nContent-Length: 6\r\n\r\nsecret",
    ],
    ids=[
        *("tls", "line", "version", "long-line", "header", "keys", "long-header"),
        *("expectation", "length", "chunk", "second-chunk", "encoding"),
    ],
)
def test_what_is_no_request_is_answered_like_any_other_failure_and_not_logged(
    server: PreviewServer, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    with caplog.at_level(logging.DEBUG), raw(server) as connection:
        connection.sendall(request_bytes)
        with connection.makefile("rb") as answer:
            status, headers = answer.readline(), http.client.parse_headers(answer)
            body = answer.read(int(headers["Content-Length"]))
    assert (b" 417 " if b"Expect" in request_bytes else b" 400 ") in status
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["Content-Type"] == "application/json; charset=utf-8" and int(headers["Content-Length"]) == len(body)
    assert json.loads(body)["error"] and b"\n" not in body and b"secret" not in body
    assert [record for record in said(caplog) if record.levelno >= logging.INFO] == []
    assert "secret" not in caplog.text and len(caplog.text) < 2000


def test_rates(server: PreviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: 100.0))  # nothing is earned meanwhile

    async def ask(client: Client) -> list[int]:
        statuses = []
        for _ in range(45):
            async with client.post("/control", json={"strength": 1}) as answer:
                statuses.append(answer.status)
        return statuses

    statuses = asking(server, ask)
    assert statuses == [200] * 30 + [429] * 15


def test_a_frame_that_cannot_be_shown_is_left_out(
    server: PreviewServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = encode.message
    monkeypatch.setattr(encode, "message", lambda shot: 1 / 0 if shot.number == 1 else original(shot))

    async def look(client: Client) -> None:
        async with client.ws_connect("/ws") as viewer:
            server.sink.write(drawn_shot(1))
            await until(lambda: "a frame cannot be shown" in caplog.text)
            server.sink.write(drawn_shot(2))
            assert await pictures(viewer, enough=1) == [2]

    asking(server, look)


def test_closing_ends_every_thread_and_tells_the_viewers(session: StubSession) -> None:
    before = threading.active_count()
    server = PreviewServer(session, port=free_port())  # which nobody else listens on afterwards
    server.start()

    async def look(client: Client) -> None:
        viewer = await client.ws_connect("/ws")
        await asyncio.get_running_loop().run_in_executor(None, server.close)
        while (message := await viewer.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)

    asking(server, look)
    server.close()
    server.sink.write(drawn_shot())
    wait_for(lambda: threading.active_count() <= before, "threads end")
    with pytest.raises(OSError):
        raw(server)


def test_a_port_in_use(server: PreviewServer, session: StubSession) -> None:
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1:{port}"):
        PreviewServer(session, port=port).start()
    with pytest.raises(OutputError):
        PreviewServer(session, port=99999).start()


def test_nothing_is_logged_of_requests(server: PreviewServer, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(client: Client) -> None:
        async with client.get("/?token=0123456789abcdef") as answer:
            await answer.read()

    with caplog.at_level(logging.DEBUG):
        asking(server, ask)
        with raw(server) as connection:
            connection.sendall(b"GET /?token=0123456789abcdef HTTP/1.1\r\nBroken\r\n\r\n")
            connection.recv(1000)
    assert "0123456789abcdef" not in caplog.text


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
