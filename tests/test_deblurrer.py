# SPDX-License-Identifier: Apache-2.0
"""The public API with the shipped ``nano`` on the CPU."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import crispstream
from crispstream import Deblurrer, Frame, PixelFormat, manifest
from crispstream.errors import EngineError, UsageError
from crispstream.frame import plane_shapes
from crispstream.gating import FADE_FRAMES, QUIET_FRAMES, SLOTS
from crispstream.kernels.geometry import Geometry
from crispstream.runners.cpu import CpuRunner
from crispstream.runners.protocol import Outcome


@pytest.fixture(scope="module")
def deblur() -> Iterator[Deblurrer]:
    with Deblurrer("nano") as opened:
        yield opened


def blurred(height: int = 90, width: int = 121, seed: int = 0) -> np.ndarray:
    """Blocks, smeared sideways."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 12), -(-width // 12), 3)).repeat(12, 0).repeat(12, 1)[:height, :width]
    return np.mean([np.roll(blocks, d, 1) for d in range(-4, 5)], 0).astype(np.uint8)


def frame_of(pixel_format: PixelFormat, width: int, height: int, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    shapes = plane_shapes(pixel_format, width, height)
    return Frame(tuple(rng.integers(0, 256, s).astype(np.uint8) for s in shapes), pixel_format, pts=seed)


def test_an_array_comes_back_as_an_array_and_changes(deblur: Deblurrer) -> None:
    image = blurred()
    before = image.copy()
    out = deblur(image)
    assert out.shape == image.shape and out.dtype == np.uint8
    assert np.array_equal(image, before), "the input is not written to"
    assert not np.array_equal(out, image)


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_a_frame_keeps_its_time_format_and_size(deblur: Deblurrer, pixel_format: PixelFormat) -> None:
    frame = frame_of(pixel_format, 61, 35, seed=7)
    out = deblur(frame)
    assert (out.format, out.width, out.height, out.pts) == (pixel_format, 61, 35, 7)


def test_strength_zero_returns_every_byte(deblur: Deblurrer) -> None:
    for pixel_format in PixelFormat:
        frame = frame_of(pixel_format, 37, 22)
        deblur.strength = 0.0
        try:
            out = deblur(frame)
        finally:
            deblur.strength = 1.0
        assert all(np.array_equal(a, b) for a, b in zip(out.planes, frame.planes, strict=True))


def test_bgr_and_rgb_agree(deblur: Deblurrer) -> None:
    image = blurred()
    rgb = Frame.from_array(np.ascontiguousarray(image[..., ::-1]), PixelFormat.RGB24)
    assert np.array_equal(deblur(rgb).planes[0][..., ::-1], deblur(image))


def test_a_view_with_strange_strides_is_accepted(deblur: Deblurrer) -> None:
    image = blurred()
    assert np.array_equal(deblur(image[:, ::-1]), deblur(np.ascontiguousarray(image[:, ::-1])))
    padded = np.zeros((90, 200, 3), np.uint8)
    padded[:, :121] = image
    assert np.array_equal(deblur(padded[:, :121]), deblur(image))


def test_stream_keeps_order_and_does_not_depend_on_timing(deblur: Deblurrer) -> None:
    frames = [Frame.from_array(blurred(48, 64, seed=i)) for i in range(30)]
    first = [f.planes[0] for f in deblur.stream(iter(frames))]
    state = deblur.open_stream()
    second = [state.process(f).planes[0] for f in frames]
    assert len(first) == len(second) == 30
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(first[0], deblur(frames[0].planes[0])), "the first frame runs everything"


class StubEngine:
    """An engine whose head says what the test wants: (mask, gate) everywhere; residuals are a tenth."""

    name = "stub"
    manifest = SimpleNamespace(pack=2, multiple=16, map_stride=8, preset="stub", tensors={})

    def __init__(self, mask: float, gate: float) -> None:
        self.answer = (mask, gate)
        self.ran: list[tuple[bool, bool]] = []

    def session(self, geometry: Geometry) -> StubEngine:
        self.packed = np.zeros(geometry.packed_shape, np.float32)
        self.head = np.zeros(geometry.head_shape, np.float32)
        self.head[0, 0], self.head[0, 1] = self.answer
        self.seconds: dict[str, float] = {}
        return self

    def run(self, foreground: bool, background: bool) -> None:
        self.ran.append((foreground, background))
        tenth = np.full_like(self.packed, 0.1)
        self.foreground = tenth if foreground else None
        self.background = tenth if background else None

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("mask", "gate", "branches"),
    [(0.0, 0.0, (False, False)), (1.0, 1.0, (True, False)), (0.0, 1.0, (False, True)), (0.5, 1.0, (True, True))],
)
def test_a_stream_leaves_idle_branches_out(
    mask: float, gate: float, branches: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = StubEngine(mask, gate)
    monkeypatch.setattr("crispstream.deblurrer.EngineChoice.next", lambda *_: stub)
    still = Frame.from_array(np.full((48, 64, 3), 90, np.uint8))
    with Deblurrer() as opened:
        out = list(opened.stream([still] * (SLOTS + QUIET_FRAMES + FADE_FRAMES)))
        assert stub.ran[0] == (True, True), "a stream starts with everything"
        assert stub.ran[-1] == branches
        opened(still)
        assert stub.ran[-1] == (True, True), "a single picture runs everything"
    # The branch that stays takes over the whole frame, so the picture does not depend on the variant.
    expected = np.full((48, 64, 3), round(90 + 25.5 * gate), np.uint8)
    assert all(np.abs(f.planes[0].astype(int) - expected).max() <= 1 for f in out)


def test_gating_off_always_runs_both() -> None:
    with Deblurrer("nano", gating=False) as opened:
        still = Frame.from_array(np.full((48, 64, 3), 90, np.uint8))
        list(opened.stream([still] * 30))
        assert dict(opened.stats.variants) == {"both": 30}


def test_an_error_of_the_frames_reaches_the_consumer(deblur: Deblurrer) -> None:
    def frames() -> Iterator[Frame]:
        yield Frame.from_array(blurred(32, 32))
        raise RuntimeError("camera unplugged")

    restored = deblur.stream(frames())
    next(restored)
    with pytest.raises(RuntimeError, match="camera unplugged"):
        next(restored)


def test_leaving_a_stream_early_leaves_no_thread(deblur: Deblurrer) -> None:
    before = set(threading.enumerate())
    stream = deblur.stream(Frame.from_array(blurred(32, 32)) for _ in range(1000))
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before  # one of an earlier test may have ended meanwhile


def test_fetching_and_computing_go_on_while_a_result_is_used(deblur: Deblurrer) -> None:
    fetched = [threading.Event() for _ in range(6)]

    def frames() -> Iterator[Frame]:
        for event in fetched:
            event.set()
            yield Frame.from_array(blurred())

    before = deblur.stats.frames
    for _ in deblur.stream(frames()):
        assert fetched[4].wait(60), "the source runs ahead"
        deadline = time.monotonic() + 60
        while deblur.stats.frames < before + 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert deblur.stats.frames >= before + 2, "the next frame is computed meanwhile"
        break


def test_threads_share_one_deblurrer(deblur: Deblurrer) -> None:
    images = [blurred(40 + 8 * i, 64, seed=i) for i in range(6)]
    want = [deblur(i) for i in images]
    got: list[list[np.ndarray]] = [[] for _ in images]

    def work(index: int) -> None:
        got[index] = [deblur(images[index]) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(r, w) for results, w in zip(got, want, strict=True) for r in results)
    assert all(len(results) == 5 for results in got)


def test_maps_are_shares(deblur: Deblurrer) -> None:
    mask, gate = deblur.maps(blurred(90, 121))
    assert mask.shape == gate.shape == (12, 16)
    assert min(mask.min(), gate.min()) >= 0 and max(mask.max(), gate.max()) <= 1


def test_stats_count(deblur: Deblurrer) -> None:
    before = deblur.stats.frames
    deblur(blurred())
    assert deblur.stats.frames == before + 1
    stages = deblur.stats.as_dict()["stage_ms"]
    assert {"unpack", "encoder", "foreground", "background", "engine", "blend"} <= set(stages)
    assert all(v > 0 for v in stages.values())


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), "no", None]
)
def test_what_is_not_a_picture_is_refused(deblur: Deblurrer, image: object) -> None:
    with pytest.raises(UsageError, match=r"expected|empty|at least"):
        deblur(image)  # type: ignore[call-overload]


def test_a_stream_of_arrays_is_told_what_it_needs(deblur: Deblurrer) -> None:
    with pytest.raises(UsageError, match=r"expected a crispstream\.Frame, got ndarray"):
        next(deblur.stream([blurred()]))  # type: ignore[list-item]


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_strength_outside_its_range(strength: float) -> None:
    with pytest.raises(UsageError, match="outside"):
        Deblurrer("nano", strength=strength)


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(manifest, "_shipped", lambda: tmp_path)
        with pytest.raises(EngineError, match="weights"):
            Deblurrer("base")
    with pytest.raises(UsageError, match="unknown"):
        Deblurrer("nano", device="tpu")
    with pytest.raises(UsageError, match="unknown"):
        Deblurrer("nano", backend="magic")


def test_closed_is_closed() -> None:
    opened = Deblurrer("nano")
    opened.close()
    opened.close()
    with pytest.raises(UsageError, match="closed"):
        opened(blurred())


def test_discontinuity_and_another_size_reset_the_gating(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubEngine(0.0, 0.0)
    monkeypatch.setattr("crispstream.deblurrer.EngineChoice.next", lambda *_: stub)
    still = Frame.from_array(np.full((48, 64, 3), 90, np.uint8))
    with Deblurrer() as opened:
        state = opened.open_stream()
        for cut in (replace(still, discontinuity=True), Frame.from_array(np.full((48, 80, 3), 90, np.uint8))):
            for _ in range(40):
                state.process(still)
            assert stub.ran[-1] == (False, False)
            state.process(cut)
            assert stub.ran[-1] == (True, True)


def test_gating_off_keeps_no_past(deblur: Deblurrer) -> None:
    with Deblurrer("nano", gating=False) as opened:
        state = opened.open_stream()
        for _ in range(20):
            state.process(Frame.from_array(blurred(16, 16)))
        assert state._since_reset == 1 and len(state._under_way) <= SLOTS


def test_memory_of_other_sizes_is_bounded() -> None:
    with Deblurrer("nano") as opened:
        for width in (32, 64, 96):
            opened(np.zeros((32, width, 3), np.uint8))
        assert len(opened._runner._sessions) == 3, "small sizes that take turns stay open"
        opened.strength = 0.0
        opened(np.zeros((2100, 1920, 3), np.uint8))
        assert list(opened._runner._sessions) == [(1920, 2112)], "a large one stays alone"


def test_nothing_is_sent_or_left_in_the_cache(tmp_path: Path) -> None:
    code = "import crispstream, numpy; crispstream.Deblurrer('nano')(numpy.zeros((32, 32, 3), 'uint8'))"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert not [p for p in tmp_path.rglob("*") if "onnxruntime" in str(p).lower()]


def test_public_names() -> None:
    assert {"Deblurrer", "Frame", "PixelFormat", "ColorSpec", "run", "CrispStreamError"} <= set(crispstream.__all__)


def test_a_size_that_no_engine_takes_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from crispstream.engine.onnxruntime import OnnxRuntimeEngine

    session = OnnxRuntimeEngine.session

    def picky(engine: OnnxRuntimeEngine, size: Geometry) -> object:
        if size.padded_width > 1000:
            raise EngineError("too wide for this engine")
        return session(engine, size)

    monkeypatch.setattr(OnnxRuntimeEngine, "session", picky)
    monkeypatch.setitem(sys.modules, "crispstream.engine.torch", None)
    with Deblurrer("nano", "cpu") as opened:
        opened(blurred(32, 64))
        with pytest.raises(EngineError, match="too wide for this engine"):
            opened(blurred(32, 2000))
        opened(blurred(32, 64))


def test_a_failed_frame_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Deblurrer("nano", "cpu") as opened:
        runner = opened._runner
        process, calls = runner._process, iter(range(100))  # type: ignore[union-attr]

        def third(*arguments: object) -> object:
            if next(calls) == 2:
                raise EngineError("boom")
            return process(*arguments)

        monkeypatch.setattr(runner, "_process", third)
        stream, failed = opened.open_stream(), []
        for i in range(7):
            try:
                stream.process(Frame.from_array(blurred(16, 16)))
            except EngineError:
                failed.append(i)
        assert failed == [2]


def test_a_frame_that_needs_another_engine_takes_none_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(StubEngine):
        def session(self, geometry: Geometry) -> StubEngine:
            if geometry.padded_width > 64:
                raise EngineError("too wide for this engine")
            return super().session(geometry)

    engines = iter([Narrow(1, 1), StubEngine(1, 1)])
    monkeypatch.setattr("crispstream.deblurrer.EngineChoice.next", lambda *_: next(engines))
    narrow, wide = (Frame.from_array(np.full((32, width, 3), 90, np.uint8)) for width in (64, 128))
    with Deblurrer("nano", "cpu") as opened:
        first = opened._runner
        submit, switched = first.submit, threading.Event()  # type: ignore[union-attr]
        other = threading.Thread(target=lambda: (opened(wide), switched.set()))

        def late(*arguments: object) -> object:
            """The other thread has had every chance to close this runner."""
            other.start()
            switched.wait(0.3)
            return submit(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(first, "submit", late)
        result = opened(narrow)
        other.join()
        assert switched.is_set() and opened._runner is not first
        assert np.array_equal(opened(narrow).planes[0], result.planes[0])


def test_who_has_a_result_finds_it_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU another thread finishes frames."""
    stub = StubEngine(1, 1)
    monkeypatch.setattr("crispstream.deblurrer.EngineChoice.next", lambda *_: stub)
    with Deblurrer("nano", "cpu") as opened:
        runner = opened._runner
        submit, account = runner.submit, opened._account  # type: ignore[union-attr]

        def elsewhere(*arguments: object) -> Future[Outcome]:
            future: Future[Outcome] = Future()
            done = submit(*arguments)  # type: ignore[arg-type]
            threading.Timer(0.02, lambda: future.set_result(done.result())).start()
            return future

        def slow(*arguments: object) -> None:
            time.sleep(0.1)
            account(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(runner, "submit", elsewhere)
        monkeypatch.setattr(opened, "_account", slow)
        opened(blurred(16, 16))
        assert opened.stats.frames == 1


def test_a_failure_to_count_does_not_leave_the_frame_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a logging filter of somebody else's")

    with Deblurrer("nano", "cpu") as opened:
        monkeypatch.setattr(opened, "_account", broken)
        with pytest.raises(RuntimeError, match="somebody else"):
            opened(blurred(16, 16))


def test_frames_that_no_engine_takes_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> StubEngine:
        raise EngineError("too wide for this engine")

    with Deblurrer("nano", "cpu", backend="onnxruntime") as opened:
        monkeypatch.setattr(opened.engine, "session", refuse)
        pictures = []
        for _ in range(5):
            picture = blurred(16, 16)
            pictures.append(weakref.ref(picture))
            with pytest.raises(EngineError, match="too wide"):
                opened(picture)
        del picture
        gc.collect()
        assert [reference() for reference in pictures] == [None] * 5


def test_an_engine_that_cannot_be_run_is_closed_and_the_next_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[StubEngine] = []
    monkeypatch.setattr(StubEngine, "close", lambda engine: closed.append(engine))
    first, second = StubEngine(1, 1), StubEngine(1, 1)
    engines = iter([first, second])
    monkeypatch.setattr("crispstream.deblurrer.EngineChoice.next", lambda *_: next(engines))

    def run(engine: StubEngine, *arguments: object) -> CpuRunner:
        if engine is first:
            raise EngineError("no memory for its streams")
        return CpuRunner(engine, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("crispstream.deblurrer.CpuRunner", run)
    with Deblurrer("nano", "cpu") as opened:
        assert closed == [first] and opened.engine is second
        opened(blurred(16, 16))
