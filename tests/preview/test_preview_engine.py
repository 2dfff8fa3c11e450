# SPDX-License-Identifier: Apache-2.0
"""What the page is told of the engine in use and of the one that is being opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chromium import wait_for

from crispstream.deblurrer import Deblurrer
from crispstream.errors import EngineError, UsageError
from crispstream.frame import Frame
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
        assert let.wait(60)
        raise EngineError(errors[len(asked) - 1])

    monkeypatch.setattr(module, "Deblurrer", refuse)
    assert live.status()["opening"] is None
    live.switch("nano")
    assert live.status()["opening"] == PINNED
    let.set()
    wait_for(lambda: live.status()["opening"] is None, "given up")
    assert live.status()["error"] == "first" and asked[0]["backend"] == "onnxruntime"
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


def test_while_none_is_being_opened_another_may_be(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was opened in vain is closed by then, however long that takes."""
    let, closed = threading.Event(), list[bool]()

    class Refused(Deblurrer):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise EngineError("no plan covers 64x48")

        def close(self) -> None:
            super().close()
            closed.append(let.wait(60))

    live.submit(Frame.from_array(np.zeros((48, 64, 3), np.uint8)))
    monkeypatch.setattr(module, "Deblurrer", Refused)
    for turn in range(2):
        let.clear()
        live.switch("nano")
        with pytest.raises(UsageError, match="just being opened"):
            live.switch("nano")
        let.set()
        wait_for(lambda: live.status()["opening"] is None, "given up")
        assert closed == [True] * (turn + 1)
        assert live.status()["error"] == "no plan covers 64x48"
