# SPDX-License-Identifier: Apache-2.0
"""Going over to another engine while frames flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stand_ins import wait_for

from crispstream.deblurrer import Deblurrer
from crispstream.engine.select import EngineChoice
from crispstream.errors import EngineError, UsageError
from crispstream.frame import Frame
from crispstream.live import engine as module
from crispstream.live.engine import LiveEngine

FRAME = Frame.from_array(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


class Watched(Deblurrer):
    """Counts what is open, and refuses frames where the test wants it."""

    opened: int = 0
    refusing = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._mine, self._refuses = True, Watched.refusing
        Watched.opened += 1

    def submit(self, frame: Frame) -> Any:
        if self._refuses:
            raise EngineError("no plan covers 64x48")
        return super().submit(frame)

    def close(self) -> None:
        Watched.opened -= self._mine
        self._mine = False
        super().close()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveEngine]:
    monkeypatch.setattr(module, "Deblurrer", Watched)
    Watched.opened, Watched.refusing = 0, False
    opened = LiveEngine("nano", device="cpu", backend="onnxruntime", threads=1)
    yield opened
    opened.close()
    assert Watched.opened == 0, "every engine is closed in the end"


def switched(live: LiveEngine, **options: Any) -> None:
    live.switch("nano", **options)
    wait_for(lambda: live.status()["opening"] is None)


def test_the_next_frame_is_the_other_engines_and_the_old_one_is_handed_back(live: LiveEngine) -> None:
    first, before = live.submit(FRAME)
    assert before is None
    switched(live, backend="torch")
    second, before = live.submit(FRAME)
    assert before is not None and live.status()["name"] == "torch" and Watched.opened == 2
    assert live.map_stride == 8
    assert np.abs(first.result().planes[0].astype(int) - second.result().planes[0]).max() <= 1
    before.close()
    assert live.submit(FRAME)[1] is None


def test_the_strength_goes_along(live: LiveEngine) -> None:
    live.submit(FRAME)
    live.strength = 0.25
    switched(live)
    live.strength = 0.5
    _, before = live.submit(FRAME)
    assert live.strength == 0.5 and before is not None
    before.close()


def test_an_engine_that_does_not_take_these_frames_is_not_gone_over_to(live: LiveEngine) -> None:
    live.submit(FRAME)
    Watched.refusing = True
    switched(live)
    assert "no plan covers" in live.status()["error"] and Watched.opened == 1
    assert live.submit(FRAME)[0].result().width == 64


def test_two_changes_before_a_frame_leave_one_engine(live: LiveEngine) -> None:
    switched(live)
    switched(live)
    assert Watched.opened == 2
    _, before = live.submit(FRAME)
    assert before is not None
    before.close()


@pytest.mark.parametrize("switches", [1, 2])
def test_the_old_engine_is_closed_though_the_first_frames_of_the_new_one_fail(live: LiveEngine, switches: int) -> None:
    """By who gets it with the first frame that does not fail, or in the end."""
    for _ in range(switches):
        switched(live)  # with no frame yet to try it on
        assert live._coming is not None
        stream = live._coming.open_stream
        live._coming.open_stream = Refusing  # type: ignore[method-assign, assignment]
        for _ in range(2):
            with pytest.raises(EngineError):
                live.submit(FRAME)
        assert Watched.opened == 2
        live._last = None
    if switches == 1:
        live._stream = stream()
        _, before = live.submit(FRAME)
        assert before is not None and Watched.opened == 2
        before.close()
        assert live.submit(FRAME)[1] is None


class Refusing:
    def submit(self, frame: Frame) -> Any:
        raise EngineError("out of memory")


def test_status_tells_the_engine_that_a_frame_was_left_to(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(frame: Frame) -> None:
        raise EngineError("no plan covers 64x48")

    assert live.status()["name"] == "onnxruntime"
    monkeypatch.setattr(live._deblurrer, "_choice", EngineChoice("nano", "cpu", "torch", 1))
    monkeypatch.setattr(live._deblurrer._runner, "prepare", refuse)
    live.submit(FRAME)[0].result()
    assert live.status()["name"] == live._deblurrer.engine.name == "torch"
    live.close()
    assert live.status()["name"] == "torch", "for the summary"


def test_the_engines_time_on_a_cpu_and_on_a_gpu(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.status()["ms"] is None
    live.submit(FRAME)[0].result()
    assert live.status()["ms"] == live.figures()["stage_ms"]["engine"] > 0
    stages = {"copy_in": 0.5, "gpu": 2.5, "copy_out": 0.25}  # what GpuRunner counts
    monkeypatch.setattr(live, "figures", lambda: {"stage_ms": stages})
    assert live.status()["ms"] == 2.5


def test_names_that_do_not_exist(live: LiveEngine) -> None:
    for wrong in ({"preset": "huge"}, {"preset": "nano", "backend": "magic"}):
        with pytest.raises(UsageError):
            live.switch(**wrong)
    with pytest.raises(UsageError):
        live.strength = 3
    assert "nano" in live.presets()
