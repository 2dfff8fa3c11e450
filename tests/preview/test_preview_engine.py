# SPDX-License-Identifier: Apache-2.0
"""What the page is told of the engine in use and of the one that is being opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import wait_for

from crispstream.errors import EngineError
from crispstream.live import engine as module
from crispstream.live.engine import LiveEngine

PINNED = {"preset": "nano", "backend": "onnxruntime"}


@pytest.fixture
def live() -> Iterator[LiveEngine]:
    opened = LiveEngine(**PINNED, device="cpu", threads=1)
    yield opened
    opened.close()


def test_another_preset_keeps_the_pinned_backend(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    let, errors = threading.Event(), ["first", "second"]

    def refuse(**options: Any) -> None:
        asked.append(options)
        assert let.wait(10)
        raise EngineError(errors[len(asked) - 1])

    monkeypatch.setattr(module, "Deblurrer", refuse)
    assert live.status()["opening"] is None
    live.switch("nano")
    assert live.status()["opening"] == PINNED
    let.set()
    wait_for(lambda: live.status()["opening"] is None, "given up")
    assert live.status()["error"] == "first" and asked[0]["backend"] == "onnxruntime"
    wait_for(lambda: live._opener is not None and not live._opener.is_alive(), "ready for another")
    let.clear()
    live.switch("nano", "torch")
    status = live.status()
    assert (status["opening"], status["error"], status["backend"]) == (
        {**PINNED, "backend": "torch"},
        "",
        "onnxruntime",
    )
    let.set()
    wait_for(lambda: live.status()["error"] == "second", "its own error")
