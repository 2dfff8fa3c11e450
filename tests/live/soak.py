# SPDX-License-Identifier: Apache-2.0
"""A soak: `crispstream live` on a real RTSP stream at its real rate, with everything attached, for as long as asked.

``python tests/live/soak.py 1800`` runs half an hour and prints figures as JSON; it fails where memory, file descriptors
or threads grow. Every minute the server is killed and started again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
from ports import free_port
from process import Live, Sample, flat
from rtsp_server import RtspServer

WARM_UP_SECONDS = 20.0
OUTAGE_EVERY = 60.0
GROWTH_MIB = 12.0


def soak(
    seconds: float, folder: Path, size: tuple[int, int] = (640, 360), growth: float = GROWTH_MIB
) -> dict[str, Any]:
    """Figures of ``seconds``: latency, drops by cause, reconnections, and first and last sample of what was taken."""
    port, samples = free_port(), list[Sample]()
    with RtspServer(size) as server:
        targets = ("--to", str(folder / "cam-%H%M%S.mkv"), "--segment", "20s", "--to", str(folder / "now.jpg"))
        options = ("--snapshot-every", "2s", "--preview", str(port), "--read-timeout", "2s", "--json")
        with Live(server.url, *targets, *options) as run:
            run.logged("open")
            viewer = Viewer(port)
            viewer.start()
            began = time.monotonic()
            next_outage = began + min(OUTAGE_EVERY, seconds / 3)
            try:
                while (now := time.monotonic()) < began + WARM_UP_SECONDS + seconds:
                    time.sleep(1)
                    assert run.process.poll() is None, run.lines[-5:]
                    if now >= next_outage:
                        next_outage = now + OUTAGE_EVERY
                        server.kill()
                        time.sleep(2)
                        server.start(size)
                    if now > began + WARM_UP_SECONDS:
                        samples.append(run.sample())
            finally:
                viewer.stop.set()
                viewer.join(70)
            assert viewer.pictures > seconds and viewer.answers > seconds, "somebody saw it all the time"
            assert run.end() == 0
            report = run.report()
    films = sorted(folder.glob("cam-*.mkv"))
    assert len(films) >= seconds / 25 and not list(folder.glob(".*")), films
    flat(samples, growth)
    figures = {key: report[key] for key in ("uptime_s", "frames", "latency_ms", "drops", "sinks")}
    ends = {name: vars_of(samples[i]) for name, i in (("first", 0), ("last", -1))}
    seen = {"pictures": viewer.pictures, "answers": viewer.answers}
    return {**figures, **seen, "reconnects": report["source"]["reconnects"], "films": len(films), **ends}


def vars_of(sample: Sample) -> dict[str, float]:
    """A sample as JSON types."""
    return {"memory_mib": round(sample.memory, 1), "descriptors": sample.descriptors, "threads": sample.threads}


class Viewer(threading.Thread):
    """Somebody who has the page open, as its WebSocket sees it, and asks for figures and pictures besides."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._at, self.stop = f"http://127.0.0.1:{port}", threading.Event()
        self.pictures = self.answers = 0

    def run(self) -> None:
        """Until ``stop``."""
        asyncio.run(self._look())

    async def _look(self) -> None:
        async with aiohttp.ClientSession() as client, client.ws_connect(f"{self._at}/ws", max_msg_size=0) as page:
            asked = 0.0
            while not self.stop.is_set():
                message = await page.receive(timeout=60)
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.pictures += 1
                    length = int.from_bytes(message.data[:4], "little")
                    await page.send_json({"drawn": json.loads(message.data[4 : 4 + length])["number"]})
                if time.monotonic() - asked > 1:
                    asked = time.monotonic()
                    for path in ("snapshot.jpg?side=after", "status", "metrics"):
                        async with client.get(f"{self._at}/{path}") as answer:
                            self.answers += answer.status == 200


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(soak(float(sys.argv[1]), Path(scratch)), indent=2))
