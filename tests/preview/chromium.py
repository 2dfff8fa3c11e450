# SPDX-License-Identifier: Apache-2.0
"""A real browser, driven by the WebDriver protocol (w3.org/TR/webdriver2): Debian's chromium and chromium-driver."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

PROGRAMS = {"chromium": "chromium", "chromium-driver": "chromedriver"}
MISSING = [package for package, program in PROGRAMS.items() if not shutil.which(program)]
"""Packages of Debian that are not installed."""

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window. ``size``: of the page, in CSS pixels; ``phone``: a touch screen, two device pixels to a CSS pixel."""

    def __init__(self, size: tuple[int, int] = (1280, 800), phone: bool = False, dark: bool = True) -> None:
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout is not None
        port = next(m[1] for line in self._driver.stdout if (m := re.search(r"successfully on port (\d+)", line)))
        self._session = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        arguments += [
            f"--window-size={size[0]},{size[1]}",
            "--blink-settings=preferredColorScheme=" + str(int(not dark)),
        ]
        options: dict[str, Any] = {"args": arguments}
        if phone:
            metrics = {"width": size[0], "height": size[1], "pixelRatio": 2, "touch": True, "mobile": True}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session += "/" + self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            self._session + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from None

    def open(self, url: str) -> None:
        """Go there."""
        self._call("/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function's body."""
        return self._call("/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """The first value of ``script`` that is true. Raises TimeoutError."""
        return wait_for(lambda: self.run(script, *arguments), script, seconds)

    def point(self, x: float, y: float, *to: tuple[float, float], touch: bool = False) -> None:
        """Press at (x, y) of the page, move through ``to`` and let go."""
        move = {"type": "pointerMove", "duration": 50, "origin": "viewport"}
        moves = [{**move, "x": round(a), "y": round(b)} for a, b in ((x, y), *to)]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        kind = {"pointerType": "touch" if touch else "mouse"}
        self._call("/actions", {"actions": [{"type": "pointer", "id": "p", "parameters": kind, "actions": actions}]})

    def keys(self, text: str) -> None:
        """Type into what has the focus. Special keys are WebDriver's code points."""
        actions = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def screenshot(self) -> bytes:
        """PNG of what the window shows."""
        return base64.b64decode(self._call("/screenshot", method="GET"))

    def console(self) -> list[str]:
        """What the page has complained of since the last call."""
        entries = self._call("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("", method="DELETE")
        finally:
            self._driver.terminate()
            self._driver.wait(60)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for(get: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first true value of ``get``. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := get():
            return value
        time.sleep(0.05)
    raise TimeoutError(what)
