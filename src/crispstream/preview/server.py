# SPDX-License-Identifier: Apache-2.0
"""The preview page's server: one thread with its own event loop, beside the stream and never in its way."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from typing import Any, Protocol, cast

from aiohttp import hdrs, web

from crispstream.engine.select import BACKENDS
from crispstream.errors import CrispStreamError, OutputError, UsageError
from crispstream.preview import encode
from crispstream.preview.answers import failure, strict
from crispstream.preview.connections import Connections
from crispstream.preview.feed import PreviewSink, Viewer, Viewers
from crispstream.preview.prometheus import exposition
from crispstream.preview.security import Guard, RefusedError

MAX_VIEWERS = 32
MAX_REQUEST = 64 * 1024
"""Bytes of a request's body."""
PATIENCE = 10.0
"""Seconds for a request to arrive, for an answer to be read, for a picture to be acknowledged."""
HISTORY_SECONDS = 300

_CONNECTIONS = 4 * MAX_VIEWERS
_STATIC = files("crispstream.preview") / "static"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_logger = logging.getLogger("crispstream.live")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Session(Protocol):
    """What the page shows and changes; ``crispstream.live.session`` has it. All may be called from any thread."""

    def status(self) -> dict[str, Any]:
        """Figures and states, of JSON's types."""

    def presets(self) -> list[str]:
        """Names that ``switch`` takes."""

    def set_strength(self, value: float) -> None:
        """Raises UsageError outside 0..2."""

    def switch(self, preset: str, backend: str | None = None) -> None:
        """Ask for another engine. Raises UsageError for an unknown name."""


class PreviewServer:
    """Serves ``session`` on ``host``:``port`` (0: any free one) from ``start`` to ``close``.

    Whatever is not loopback needs a ``token``. ``fps``: pictures a second at most. Raises UsageError for a token that
    is missing or easily guessed.
    """

    def __init__(
        self,
        session: Session,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        *,
        fps: float = 15.0,
        patience: float = PATIENCE,
    ) -> None:
        self.sink, self._snapshots = PreviewSink(), encode.Snapshots()
        self._session, self._host, self._port, self._fps, self._patience = session, host, port, fps, patience
        self._guard = Guard(host, token)
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_SECONDS)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._viewers: Viewers
        self._connections: Connections

    @property
    def url(self) -> str:
        """The page's address, without the token."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self._port}/"

    def start(self) -> None:
        """Listen, and return once the page can be opened. Raises OutputError where the address cannot be had."""
        try:
            family, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server((cast(str, address[0]), self._port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            message = f"the preview page cannot listen on {self._host}:{self._port} ({error})"
            raise OutputError(message, "choose another port, for example --preview 8081") from error
        self._port = listener.getsockname()[1]
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="preview", daemon=True)
        self._thread.start()
        ready.result()

    def close(self) -> None:
        """Say goodbye to the viewers and stop listening. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(5)

    def _run(self, listener: socket.socket, ready: Future[None]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(listener, ready))
        except Exception as error:
            _logger.exception("preview: the page has ended")
            if not ready.done():
                ready.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self, listener: socket.socket, ready: Future[None]) -> None:
        # One thread for pictures, one for the session, whose answers must not wait for pictures.
        with ThreadPoolExecutor(1, "preview-jpeg") as pictures, ThreadPoolExecutor(1, "preview-session") as calls:
            self._pictures, self._calls = pictures, calls
            self._viewers = Viewers(self.sink, pictures, self._fps, self._patience)
            self.sink.listen(self._viewers.notify)
            application = web.Application(middlewares=[self._answer], client_max_size=MAX_REQUEST)
            application.on_response_prepare.append(strict)
            application.add_routes(
                [
                    web.get("/", self._page),
                    web.get("/static/{name}", self._file),
                    web.get("/ws", self._watch),
                    web.get("/status", self._status),
                    web.get("/metrics", self._metrics),
                    web.get("/snapshot.jpg", self._snapshot),
                    web.post("/control", self._control),
                ]
            )
            runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=1)
            await runner.setup()
            assert runner.server is not None
            self._connections = Connections(runner.server, _CONNECTIONS, self._patience)
            server = await self._loop.create_server(self._connections, sock=listener)
            endless = (self._viewers.run, self._viewers.watch, self._connections.run, self._tell)
            tasks = [asyncio.create_task(run()) for run in endless]
            ready.set_result(None)
            await self._stop.wait()
            self.sink.listen(None)
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._viewers.close()
            await runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Admit the request; failures become one line of JSON."""
        self._connections.began(request)
        try:
            self._guard.admit(request)
            signed_in = self._guard.sign_in(request)  # an answer without items is false in aiohttp 3.10
            return await handler(request) if signed_in is None else signed_in
        except RefusedError as error:
            refusal = failure(error.status, str(error))
            refusal.force_close()  # places are few, and who may not look keeps none
            return refusal
        except UsageError as error:
            return failure(400, str(error), error.hint)
        except CrispStreamError as error:
            return failure(503, str(error), error.hint)
        except web.HTTPRequestEntityTooLarge:
            return failure(413, f"a request may have {MAX_REQUEST} bytes at most")
        except web.RequestPayloadError:
            return failure(400, "the body of the request cannot be read")
        except web.HTTPException as error:
            return failure(error.status, error.reason.lower())
        except Exception as error:
            if not isinstance(error, ConnectionError):  # who has left is nothing to report
                _logger.error("preview: %s %.100r fails: %.200r", request.method, request.path, error)
            return failure(500, "the server has failed: see its log")

    async def _page(self, request: web.Request) -> web.Response:
        return _static("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return _static(request.match_info["name"])

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(await self._call(self._session.status))

    async def _metrics(self, request: web.Request) -> web.Response:
        status = await self._call(self._session.status)
        text = exposition(status, len(self._viewers.all), self._viewers.encoded, self._viewers.dropped)
        return web.Response(body=text.encode(), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"})

    async def _snapshot(self, request: web.Request) -> web.Response:
        side = request.query.get("side", "after")
        if side not in ("before", "after"):
            raise RefusedError(400, "side is before or after: /snapshot.jpg?side=before")
        if (shot := self.sink.latest) is None:
            raise RefusedError(503, "there is no picture yet: try again")
        body = await self._loop.run_in_executor(self._pictures, self._snapshots.side, shot, side)
        return web.Response(body=body, content_type="image/jpeg")

    async def _control(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise RefusedError(415, "send JSON: Content-Type: application/json")
        try:
            wanted = await asyncio.wait_for(request.json(), self._patience)
        except asyncio.TimeoutError:
            raise RefusedError(408, "the request did not arrive in time") from None
        except (ValueError, LookupError, RecursionError):  # no JSON, no such charset, too deep
            wanted = None
        if not isinstance(wanted, dict) or not wanted or not wanted.keys() <= {"strength", "preset", "backend"}:
            raise RefusedError(400, 'send {"strength": 0..2}, {"preset": "..."} or {"backend": "..."}')
        await self._call(lambda: self._change(wanted))
        return web.json_response({"ok": True})

    def _change(self, wanted: dict[str, Any]) -> None:
        """In the session's thread. Raises RefusedError and UsageError, and then nothing is changed."""
        value = wanted.get("strength", 0)
        # Compared before it becomes a float, because an integer may have any number of digits.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
            raise RefusedError(400, "strength is a number from 0 to 2")
        if "preset" in wanted or "backend" in wanted:
            engine = {**self._session.status()["engine"], **wanted}  # what is not asked for stays
            preset, backend = engine["preset"], engine["backend"]
            if not isinstance(preset, str) or not isinstance(backend, str):
                raise RefusedError(400, "preset and backend are names")
            self._session.switch(preset, backend)
        if "strength" in wanted:
            self._session.set_strength(float(value))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers.all) >= MAX_VIEWERS:
            raise RefusedError(503, f"{MAX_VIEWERS} viewers are looking already: close a page or try again later")
        # No compression: JPEG has none left, and trying would cost more than all the rest.
        socket = web.WebSocketResponse(heartbeat=2 * self._patience, max_msg_size=1024, compress=False, timeout=1)
        viewer = Viewer(socket, request.transport)
        self._viewers.all.add(viewer)
        try:
            hello = {"presets": await self._call(self._session.presets), "backends": ["auto", *BACKENDS]}
            await socket.prepare(request)
            self._connections.upgraded(request)
            viewer.tell({"hello": hello, "history": list(self._history)})
            await self._viewers.serve(viewer)
        finally:
            self._viewers.all.discard(viewer)
        return socket

    async def _tell(self) -> None:
        """Every second: one sample for the charts, one status to every viewer."""
        while True:
            try:
                status = await self._call(self._session.status)
                sample = _sample(status)
                self._history.append(sample)
                self._viewers.tell({"status": status, "sample": sample})
            except Exception:  # the page outlives a failing figure
                _logger.exception("preview: the session tells no status")
            await asyncio.sleep(1)

    async def _call(self, function: Callable[[], Any]) -> Any:
        """Call the session in its own thread, because it may wait for a lock."""
        return await self._loop.run_in_executor(self._calls, function)


def _sample(status: dict[str, Any]) -> dict[str, Any]:
    """What the charts draw of a status; ``drops`` is the sum over causes so far."""
    return {
        "t": status["uptime_s"],
        "fps": [status["fps"]["in"], status["fps"]["out"]],
        "latency": [status["latency_ms"][name] for name in ("p50", "p95", "p99")],
        "drops": sum(status["drops"].values()),
        "shares": [status["shares"]["person"], status["shares"]["blur"]],
    }


def _static(name: str) -> web.Response:
    kind = _TYPES.get(name.rpartition(".")[2])
    path = _STATIC / name
    if kind is None or "/" in name or "\\" in name or not path.is_file():
        raise web.HTTPNotFound
    return web.Response(body=path.read_bytes(), content_type=kind, charset="utf-8")
