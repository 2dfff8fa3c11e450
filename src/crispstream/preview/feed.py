# SPDX-License-Identifier: Apache-2.0
"""From the stream to the viewers: the stream leaves its newest shot here, viewers take it when they have time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, NamedTuple

from aiohttp import WSCloseCode, WSMsgType, web

from crispstream.live.protocol import Shot
from crispstream.preview import encode

_logger = logging.getLogger("crispstream.live")


class PreviewSink:
    """The live sink of the preview page: keeps the newest shot and costs nothing while nobody looks."""

    name = "preview"

    def __init__(self) -> None:
        self.latest: Shot | None = None
        self._on_shot: Callable[[], None] | None = None

    def listen(self, on_shot: Callable[[], None] | None) -> None:
        """Have ``on_shot`` called, in the stream's thread, whenever there is a newer shot."""
        self._on_shot = on_shot

    def write(self, shot: Shot) -> None:
        """Take the shot. Never waits, never fails: viewers come and go without the stream noticing."""
        self.latest = shot
        if on_shot := self._on_shot:
            on_shot()

    def close(self) -> None:
        """Nothing to finish: the last picture stays for who looks later."""

    def abort(self) -> None:
        """Nothing to let go of."""


class Picture(NamedTuple):
    """An encoded shot. ``captured``: seconds of ``time.monotonic()``."""

    number: int
    captured: float
    message: bytes


class Viewer:
    """One WebSocket. All that ever waits for it is the newest picture, the newest status and what it has not
    acknowledged: at most two pictures."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.WriteTransport | None) -> None:
        self.socket = socket
        self.paused = False
        self.latency_ms: float | None = None
        self.shown: Picture | None = None
        self._transport = transport
        self._wake = asyncio.Event()
        self._next: Picture | None = None
        self._text: dict[str, Any] = {}
        self._under_way: deque[tuple[int, float, float]] = deque()  # number, sent, captured
        self._round_trip = 0.0
        self._sending: float | None = None

    @property
    def ready(self) -> bool:
        """Whether another picture would go out at once."""
        # A second one under way fills the pause of a round trip; on a slow link it would only wait its turn there.
        window = 2 if self._round_trip < 0.25 else 1
        return not self.paused and self._next is None and len(self._under_way) < window

    def show(self, picture: Picture) -> None:
        """Send this picture. Call where the viewer is ``ready``."""
        self._next = self.shown = picture
        self._wake.set()

    def tell(self, text: dict[str, Any]) -> None:
        """Send this as well; what waits already goes with it, the newer value of each key."""
        self._text |= text
        self._wake.set()

    def acknowledged(self, number: int) -> None:
        """The viewer has drawn the picture ``number``."""
        now = time.monotonic()
        while any(number == waiting for waiting, _, _ in self._under_way):
            _, sent, captured = self._under_way.popleft()
            self._round_trip += 0.3 * (now - sent - self._round_trip)
            self.latency_ms = round(1000 * (now - captured), 1)

    def pause(self, paused: bool) -> None:
        """The viewer wants no pictures for a while, or wants them again. It no longer answers for those under way."""
        self.paused = paused
        self._under_way.clear()

    def stuck(self, patience: float) -> bool:
        """Whether the viewer has taken nothing, or not answered for a picture, for so many seconds."""
        since = [self._sending] if self._sending is not None else []
        since += [sent for _, sent, _ in self._under_way if not self.paused]
        return any(time.monotonic() - moment > patience for moment in since)

    async def deliver(self) -> None:
        """Send what there is, until the connection ends."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            text, self._text = self._text, {}
            picture, self._next = self._next, None
            self._sending = time.monotonic()
            if text:
                await self.socket.send_json({**text, "viewer_latency_ms": self.latency_ms})
            if picture is not None:
                self._under_way.append((picture.number, time.monotonic(), picture.captured))
                await self.socket.send_bytes(picture.message)
            self._sending = None

    def cut(self) -> None:
        """Hang up without a goodbye, which would wait for this viewer again."""
        if self._transport is not None:
            self._transport.abort()


class Viewers:
    """Everybody who looks. Each shot is encoded once, only if somebody is ready for it, at most ``fps`` a second.

    Belongs to one event loop; ``executor`` encodes; ``patience``: seconds until a stuck viewer is dropped.
    """

    def __init__(self, sink: PreviewSink, executor: Executor, fps: float, patience: float) -> None:
        self.all: set[Viewer] = set()
        self.encoded, self.dropped = 0, 0
        self._sink, self._executor, self._interval, self._patience = sink, executor, 1 / fps, patience
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._current: Picture | None = None
        self._current_shot: Shot | None = None

    def notify(self) -> None:
        """Something has changed: a shot, a viewer, an acknowledgement. May be called from any thread."""
        if self.all:
            with suppress(RuntimeError):  # the loop may end at this moment
                self._loop.call_soon_threadsafe(self._wake.set)

    def tell(self, text: dict[str, Any]) -> None:
        """Tell everybody."""
        for viewer in self.all:
            viewer.tell(text)

    async def serve(self, viewer: Viewer) -> None:
        """Deliver to this viewer and listen to it until it leaves, takes nothing for too long or talks nonsense."""
        self._wake.set()  # there may be a picture already
        delivery, listening = asyncio.create_task(viewer.deliver()), asyncio.create_task(self._listen(viewer))
        try:
            await asyncio.wait((delivery, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            delivery.cancel()
            listening.cancel()
            await asyncio.gather(delivery, listening, return_exceptions=True)
        await viewer.socket.close()

    async def watch(self) -> None:
        """Cut off viewers that are stuck, for ever."""
        while True:
            await asyncio.sleep(self._patience / 4)
            for viewer in [v for v in self.all if v.stuck(self._patience)]:
                _logger.info("preview: a viewer took nothing for %g s and was dropped", self._patience)
                self.dropped += 1
                self.all.discard(viewer)
                viewer.cut()

    async def close(self) -> None:
        """Tell everybody that the page ends."""
        leaving = [viewer.socket.close(code=WSCloseCode.GOING_AWAY) for viewer in self.all]
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _listen(self, viewer: Viewer) -> None:
        """``{"drawn": number}`` and ``{"paused": true}``, at most 100 a second."""
        allowed, since = 100.0, self._loop.time()
        async for message in viewer.socket:
            now = self._loop.time()
            allowed, since = min(100.0, allowed + 100 * (now - since)) - 1, now
            try:
                told = json.loads(message.data) if message.type is WSMsgType.TEXT else None
            except ValueError:
                told = None
            if allowed < 0 or not isinstance(told, dict):
                return
            if isinstance(told.get("drawn"), int):
                viewer.acknowledged(told["drawn"])
            if isinstance(told.get("paused"), bool):
                viewer.pause(told["paused"])
            self._wake.set()

    async def run(self) -> None:
        """Encode and hand out, for ever."""
        due = 0.0
        while True:
            await self._wake.wait()
            await asyncio.sleep(due - self._loop.time())
            self._wake.clear()
            shot = self._sink.latest
            if shot is None or not (ready := [v for v in self.all if v.ready and self._lacks(v, shot)]):
                continue
            due = max(due + self._interval, self._loop.time())
            if self._current is None or self._current_shot is not shot:
                try:
                    message = await self._loop.run_in_executor(self._executor, encode.message, shot)
                except Exception:  # one frame that cannot be shown is no reason to show none
                    _logger.exception("preview: a frame cannot be shown")
                    continue
                self.encoded += 1
                self._current, self._current_shot = Picture(shot.number, shot.captured, message), shot
            for viewer in ready:
                viewer.show(self._current)

    def _lacks(self, viewer: Viewer, shot: Shot) -> bool:
        return viewer.shown is None or viewer.shown is not self._current or self._current_shot is not shot
