# SPDX-License-Identifier: Apache-2.0
"""The whole GPU path on an emulated GPU: every byte as the NumPy twin has it, whatever is under way."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from emulation.fake_pycuda import Machine
from onnx import ModelProto, numpy_helper
from smeared import smeared

from crispstream import Deblurrer, Frame, PixelFormat
from crispstream.cuda.interop import DeviceArray
from crispstream.deblurrer import Pending
from crispstream.device_frame import DeviceFrame
from crispstream.errors import EngineError, UsageError
from crispstream.export.half import half_graph
from crispstream.frame import ColorSpec, Matrix, Range
from crispstream.gating import FADE_FRAMES, QUIET_FRAMES, SLOTS, Decision, Gating
from crispstream.kernels import reference
from crispstream.manifest import PARTS, load
from crispstream.runners.gpu import MAX_LANES, GpuRunner
from crispstream.runners.protocol import geometry_of

OpenGpu = Callable[..., Machine]
COLOR = ColorSpec(Matrix.BT709, Range.LIMITED)


def noise(pixel_format: PixelFormat = PixelFormat.BGR24, size: tuple[int, int] = (61, 43), seed: int = 0) -> Frame:
    return smeared(pixel_format, size, seed, COLOR)


class Twin:
    """What the GPU must return: the twin's kernels around the FP16 graphs in ONNX Runtime."""

    def __init__(self) -> None:
        self.sessions = {
            part: ort.InferenceSession(
                half_graph(load("nano"), part).SerializeToString(), providers=["CPUExecutionProvider"]
            )
            for part in PARTS
        }

    def run(self, part: str, **inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        found: list[npt.NDArray[Any]] = self.sessions[part].run(None, inputs)
        return found

    def restore(
        self, frame: Frame, decision: Decision | None = None, strength: float = 1.0
    ) -> tuple[Frame, tuple[float, float]]:
        decision = decision or Decision()
        geometry = geometry_of(load("nano"), (frame.width, frame.height))
        packed = np.empty(geometry.packed_shape, np.float16)
        reference.unpack(frame, geometry, packed)
        *features, head = self.run("encoder", packed=packed)
        inputs = {f"features{i}": f for i, f in enumerate(features)}
        foreground = self.run("foreground", **inputs)[0] if decision.foreground else None
        background = self.run("background", **inputs)[0] if decision.background else None
        out = frame.empty_like()
        fade = (strength * decision.strength, decision.mask_gain, decision.mask_bias)
        reference.blend(frame, geometry, head, foreground, background, out, *fade)
        return out, reference.statistics(geometry, head)


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


def same(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_every_byte_is_the_twins(open_gpu: OpenGpu, twin: Twin, pixel_format: PixelFormat, integrated: bool) -> None:
    machine = open_gpu(integrated)
    with Deblurrer("nano", "cuda") as deblur:
        assert deblur.engine.name == "tensorrt"
        for seed in range(3):
            frame = noise(pixel_format, seed=seed)
            out = deblur(frame)
            expected, _ = twin.restore(frame)
            assert same(out, expected) and not same(out, frame)
            assert (out.format, out.color, out.pts) == (pixel_format, COLOR, seed)
    assert not machine.pageable, "every copy is from or to page-locked memory"


def test_a_stream_in_flight_equals_one_frame_at_a_time(open_gpu: OpenGpu, twin: Twin) -> None:
    """Gating included: its decisions come from the frame SLOTS back, whatever is under way."""
    open_gpu()
    frames = [noise(seed=i // 7) for i in range(24)]
    frames[15] = replace(frames[15], discontinuity=True)
    expected, gating, past = [], Gating(), deque[tuple[float, float]]()
    for frame in frames:
        if frame.discontinuity:
            gating.reset()
            past.clear()
        out, statistics = twin.restore(frame, gating.decide(past.popleft() if len(past) == SLOTS else None))
        past.append(statistics)
        expected.append(out)
    with Deblurrer("nano", "cuda") as deblur:
        found = list(deblur.stream(iter(frames)))
        assert len(found) == len(frames) and all(map(same, found, expected))
        state = deblur.open_stream()
        pending = [state.submit(frame) for frame in frames]
        assert all(same(p.result(), e) for p, e in zip(pending, expected, strict=True))


def quiet_head(part: str, model: ModelProto) -> None:
    """The head says sharp everywhere: its last convolution returns a large negative gate."""
    if part == "encoder":
        edit(model, "head_out.bias", lambda bias: np.array([0, -20], bias.dtype))
        edit(model, "head_out.weight", np.zeros_like)


def edit(model: ModelProto, name: str, change: Any) -> None:
    (tensor,) = [t for t in model.graph.initializer if t.name.endswith(name)]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))


def test_idle_branches_are_left_out_and_the_frame_stays(open_gpu: OpenGpu) -> None:
    open_gpu(change=quiet_head)
    fading = SLOTS + QUIET_FRAMES + FADE_FRAMES - 2
    frames = [noise()] * (fading + 5)
    with Deblurrer("nano", "cuda") as deblur:
        found = list(deblur.stream(iter(frames)))
        assert deblur.stats.variants == {"both": fading, "none": 5}
    assert same(found[-1], frames[0])


def test_every_variant_is_captured(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        for foreground, background in itertools.product((True, False), repeat=2):
            decision = Decision(foreground, background, 0.75, 0.5, 0.25)
            with deblur._ready(noise()) as runner:
                outcome = runner.submit(noise(), decision, 1.5).result()
            expected, statistics = twin.restore(noise(), decision, 1.5)
            assert same(outcome.frame, expected)
            assert outcome.statistics == statistics and outcome.non_finite == 0
            assert set(outcome.seconds) == {"copy_in", "gpu", "copy_out"}


def test_strength_changes_without_another_capture(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        deblur(noise())
        runner = deblur._runner
        assert isinstance(runner, GpuRunner)
        graphs = {id(g) for lane in runner._lanes.values() for g in lane._graphs.values()}
        for strength in (0.0, 0.3, 2.0):
            deblur.strength = strength
            assert same(deblur(noise()), twin.restore(noise(), strength=strength)[0])
        assert graphs == {id(g) for lane in runner._lanes.values() for g in lane._graphs.values()}


def test_maps_are_the_encoders(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu()
    frame = noise()
    with Deblurrer("nano", "cuda") as deblur:
        mask, gate = deblur.maps(frame.planes[0])
    geometry = geometry_of(load("nano"), (61, 43))
    packed = np.empty(geometry.packed_shape, np.float16)
    reference.unpack(frame, geometry, packed)
    head = twin.run("encoder", packed=packed)[-1][0, :, :6, :8]
    assert np.array_equal(mask, head[0]) and np.array_equal(gate, head[1])


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_pinned_frames_are_not_copied_on_the_host(
    open_gpu: OpenGpu, twin: Twin, integrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gpu(integrated)
    with Deblurrer("nano", "cuda") as deblur:
        frame = deblur.pinned_frame(61, 43, color=COLOR)
        frame.planes[0][...] = noise().planes[0]
        expected = twin.restore(noise())[0]
        monkeypatch.setattr("crispstream.runners.lane.np.copyto", None)
        assert same(deblur(frame), expected)
        with pytest.raises(EngineError):
            deblur(noise())  # which lies elsewhere and has to be copied
    assert same(frame, noise()), "the frame outlives the engine"


def test_blocks_return_to_the_pool_and_results_stay_whole(open_gpu: OpenGpu, twin: Twin) -> None:
    machine = open_gpu()
    with Deblurrer("nano", "cuda", gating=False) as deblur:
        kept = [deblur(noise(seed=i)) for i in range(3)]
        pinned = len(machine.registered)
        for seed in range(10):
            deblur(noise(seed=seed))
        gc.collect()
        assert len(machine.registered) <= pinned + SLOTS
        view = kept[0].planes[0][3:5]
        expected = [twin.restore(noise(seed=i))[0] for i in range(3)]
        assert all(map(same, kept, expected))
        del kept
        gc.collect()
        deblur(noise(seed=7))
        assert np.array_equal(view, expected[0].planes[0][3:5]), "a view keeps its block"
    assert np.array_equal(view, expected[0].planes[0][3:5])


def test_more_results_than_may_be_pinned_are_ordinary_memory(
    open_gpu: OpenGpu, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = open_gpu()
    monkeypatch.setattr("crispstream.runners.pinned.LENT_BYTES", 0)
    with Deblurrer("nano", "cuda", gating=False) as deblur:
        kept = [deblur(noise(seed=i)) for i in range(8)]
        assert machine.pageable.count("memcpy_dtoh_async") == 4
    assert all(same(k, twin.restore(noise(seed=i))[0]) for i, k in enumerate(kept))


class Far:
    """Another library's array on the emulated GPU, where device memory is host memory."""

    def __init__(self, machine: Machine, values: npt.NDArray[np.uint8], pitch: int) -> None:
        rows, row = values.shape[0], values.size // values.shape[0]
        self.memory = np.zeros((rows, pitch), np.uint8)
        self.memory[:, :row] = values.reshape(rows, row)
        machine.allocations[self.memory.ctypes.data] = (self.memory.reshape(-1), 0)
        inner = tuple(int(np.prod(values.shape[i + 1 :])) for i in range(1, values.ndim))
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "strides": (pitch, *inner),
            "typestr": "|u1",
            "data": (self.memory.ctypes.data, False),
            "version": 3,
            "stream": None,
        }


@pytest.fixture
def far(open_gpu: OpenGpu) -> Iterator[Callable[..., Far]]:
    """Opens the GPU; then makes arrays there that belong to somebody else."""
    machine = open_gpu()
    made: list[Far] = []

    def make(values: npt.NDArray[np.uint8], pitch: int) -> Far:
        made.append(Far(machine, values, pitch))
        return made[-1]

    yield make
    for one in made:
        del machine.allocations[one.memory.ctypes.data]


def near(array: DeviceArray) -> npt.NDArray[np.uint8]:
    """The values of an array on the emulated GPU."""
    described = {"data": (array.address, False), "shape": array.shape, "strides": array.strides}
    holder = type("Holder", (), {"__array_interface__": {**described, "typestr": "|u1", "version": 3}})()
    return np.array(holder)


@pytest.mark.parametrize("pitch", [183, 256], ids=["tight", "padded"])
def test_frames_on_the_gpu_stay_there(
    far: Callable[..., Far], twin: Twin, pitch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = twin.restore(replace(noise(), color=ColorSpec(range=Range.FULL)))[0].planes[0]
    with Deblurrer("nano", "cuda") as deblur:
        with deblur._ready(DeviceFrame.wrap(far(noise().planes[0], pitch))):
            pass
        monkeypatch.setattr("crispstream.runners.slot.Slot.send", None)
        monkeypatch.setattr("crispstream.runners.slot.Slot.fetch", None)
        out: Any = deblur(far(noise().planes[0], pitch))
        assert isinstance(out, DeviceArray) and out.__dlpack_device__()[1] == 0
        assert np.array_equal(near(out), expected)
        again: Any = deblur(out)  # our own results are welcome, too
        once = Frame((expected,), PixelFormat.BGR24, ColorSpec(range=Range.FULL))
        assert np.array_equal(near(again), twin.restore(once)[0].planes[0])
        with pytest.raises(UsageError, match="memory is unknown to CUDA"):
            deblur(_stray())
        del out, again


def _stray() -> Any:
    values = np.zeros((43, 61, 3), np.uint8)
    interface = {"shape": values.shape, "typestr": "|u1", "data": (values.ctypes.data, False), "version": 3}
    return type("Stray", (), {"__cuda_array_interface__": interface, "values": values})()


def test_a_size_without_a_plan_where_the_next_engine_is_no_gpus(far: Callable[..., Far]) -> None:
    with Deblurrer("nano", "auto") as deblur:
        for _ in range(2):  # it is the first frame that changes the engine
            with pytest.raises(UsageError, match="the frame is in a GPU's memory, engine onnxruntime"):
                deblur(far(np.zeros((100, 200, 3), np.uint8), 600))


def test_nv12_on_the_gpu(far: Callable[..., Far], twin: Twin) -> None:
    frame = noise(PixelFormat.NV12)
    planes = tuple(DeviceArray.wrap(far(plane, 96)) for plane in frame.planes)
    with Deblurrer("nano", "cuda") as deblur:
        stream = deblur.open_stream()
        out = stream.process(DeviceFrame(planes, PixelFormat.NV12, COLOR, pts=3))
        assert isinstance(out, DeviceFrame) and out.pts == 3
        expected = twin.restore(frame)[0]
        assert all(np.array_equal(near(p), e) for p, e in zip(out.planes, expected.planes, strict=True))


def test_a_frame_on_the_gpu_needs_an_engine_there(far: Callable[..., Far]) -> None:
    with Deblurrer("nano", "cpu") as deblur, pytest.raises(UsageError, match="runs on the CPU"):
        deblur(far(noise().planes[0], 183))


def test_a_size_without_a_plan_goes_to_the_next_engine(
    open_gpu: OpenGpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gpu()
    monkeypatch.setattr("crispstream.engine.select._said", set())
    with Deblurrer("nano") as deblur:
        assert deblur.engine.name == "tensorrt"
        assert deblur(noise(size=(100, 90))).width == 100
        assert deblur.engine.name == "onnxruntime"
    assert "crispstream build nano --size 112x96" in caplog.text
    with Deblurrer("nano", "cuda", backend="tensorrt") as deblur, pytest.raises(EngineError, match="112x96"):
        deblur(noise(size=(100, 90)))


def test_lanes_of_other_layouts_are_bounded(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        for _ in range(2):
            for pixel_format in PixelFormat:
                frame = noise(pixel_format)
                assert same(deblur(frame), twin.restore(frame)[0])
        assert isinstance(deblur._runner, GpuRunner) and len(deblur._runner._lanes) == MAX_LANES


def test_values_that_are_not_finite_are_dropped_counted_and_told(
    open_gpu: OpenGpu, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(part: str, model: ModelProto) -> None:
        if part == "foreground":
            edit(model, "out.bias", lambda bias: np.full_like(bias, np.nan))

    open_gpu(change=spoil)
    with Deblurrer("nano", "cuda") as deblur:
        out = deblur(noise())
        deblur(noise())
    assert deblur.stats.non_finite == 2 * out.planes[0].size
    assert same(out, noise()), "those pixels stay as they were"
    (record,) = [r for r in caplog.records if "not finite" in r.message]
    assert record.levelno == logging.WARNING and "--engine-backend onnxruntime" in record.message


def test_an_engine_that_fails_says_so_and_the_next_frame_works(
    open_gpu: OpenGpu, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        stream = deblur.open_stream()
        stream.process(noise())
        with monkeypatch.context() as broken:
            broken.setattr("crispstream.cuda.graph.Graph.launch", _fail)
            with pytest.raises(EngineError, match="launch failed"):
                deblur(noise())
        assert same(deblur(noise(seed=5)), twin.restore(noise(seed=5))[0])


def _fail(*_: object) -> None:
    raise EngineError("launch failed")


def test_opened_and_closed_a_hundred_times(open_gpu: OpenGpu) -> None:
    """The fixture counts what is left on the machine."""
    open_gpu()
    before = set(threading.enumerate())
    for i in range(100):
        deblur = Deblurrer("nano", "cuda", gating=bool(i % 2))
        if i % 20 == 0:
            deblur(noise())
        if i % 3 == 0:
            deblur.open_stream().submit(noise())  # under way when it closes
        deblur.close()
        deblur.close()
    assert not set(threading.enumerate()) - before
    with pytest.raises(UsageError, match="closed"):
        deblur(noise())


def test_memory_is_flat(open_gpu: OpenGpu) -> None:
    machine = open_gpu()
    with Deblurrer("nano", "cuda") as deblur:

        def frames() -> Iterator[Frame]:
            yield from (noise(seed=i % 5) for i in range(300))

        counts = set()
        for i, _ in enumerate(deblur.stream(frames())):
            if i >= 20:
                counts.add((len(machine.allocations), sum(machine.alive.values())))
        assert len(counts) == 1
        assert len(machine.registered) < 20


def test_two_gpus_in_two_threads(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu(gpus=2)
    found: dict[int, list[Frame]] = {}

    def work(index: int) -> None:
        with Deblurrer("nano", f"cuda:{index}") as deblur:
            assert deblur.engine.worker.device.index == index  # type: ignore[union-attr]
            found[index] = list(deblur.stream(noise(seed=i) for i in range(12)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(same, found[0], found[1]))
    assert same(found[0][0], twin.restore(noise())[0])


def test_threads_share_one_deblurrer(open_gpu: OpenGpu, twin: Twin) -> None:
    open_gpu()
    expected = [twin.restore(noise(seed=i))[0] for i in range(4)]
    wrong: list[int] = []
    with Deblurrer("nano", "cuda") as deblur:

        def work(seed: int) -> None:
            wrong.extend(seed for _ in range(8) if not same(deblur(noise(seed=seed)), expected[seed]))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_file_through_the_gpu(open_gpu: OpenGpu, tmp_path: Path) -> None:
    """``crispstream.run`` uses the GPU by itself where there is a plan."""
    import av

    import crispstream

    open_gpu()
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        film = container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            picture = av.VideoFrame.from_ndarray(noise(size=(64, 48), seed=i).planes[0], format="bgr24")
            container.mux(film.encode(picture))
        container.mux(film.encode())
    report = crispstream.run(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert report.frames == 12


def test_a_dead_gpu_fails_every_frame_and_closes(open_gpu: OpenGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error that sticks, nothing works any more, and nothing waits for ever."""
    machine = open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        deblur(noise())
        stream, worker = deblur.open_stream(), deblur.engine.worker  # type: ignore[union-attr]

        def launch_and_die() -> Pending:
            """In the worker's thread: both are queued behind this, and a look at the frame advances it by one step."""
            frame = stream.submit(noise())
            worker.post(setattr, machine, "broken", True)
            return frame

        under_way = worker.call(launch_and_die)
        with pytest.raises(EngineError):
            under_way.result()
        for _ in range(4):
            with pytest.raises(EngineError):
                deblur(noise())
    machine.broken = False
    machine.alive.clear()  # a dead context takes its objects with it
    machine.allocations.clear()
    machine.registered.clear()


def test_a_failure_after_the_frame_frees_its_slot_once(open_gpu: OpenGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        with monkeypatch.context() as broken:
            broken.setattr("crispstream.runners.slot.Slot.seconds", _fail)
            with pytest.raises(EngineError, match="launch failed"):
                deblur(noise())
        deblur(noise())
        runner: Any = deblur._runner
        (lane,) = runner._lanes.values()
        runner._worker.call(lambda: None)  # the slot is given back after the result is
        assert sorted(slot.number for slot in lane._free) == list(range(SLOTS))


def test_a_lent_frame_on_the_gpu_outlives_its_lane(far: Callable[..., Far], twin: Twin) -> None:
    expected = twin.restore(replace(noise(), color=ColorSpec(range=Range.FULL)))[0].planes[0]
    with Deblurrer("nano", "cuda") as deblur:
        out: Any = deblur(far(noise().planes[0], 183))
        for pixel_format in PixelFormat:
            deblur(noise(pixel_format))
        for width in (62, 63, 64):
            deblur(noise(size=(width, 43)))  # by now the first lane is closed
        assert np.array_equal(near(out), expected)
        del out


def test_frames_that_differ_in_what_no_kernel_sees_share_a_lane(open_gpu: OpenGpu) -> None:
    open_gpu()
    with Deblurrer("nano", "cuda") as deblur:
        deblur(noise())
        deblur(noise().planes[0])
        deblur(deblur.pinned_frame(61, 43))
        runner: Any = deblur._runner
        assert len(runner._lanes) == 1
        deblur(replace(noise(PixelFormat.NV12), color=ColorSpec(transfer=13)))
        deblur(replace(noise(PixelFormat.NV12), color=ColorSpec(primaries=9)))
        assert len(runner._lanes) == 2


def test_submitting_while_it_closes_never_hangs(open_gpu: OpenGpu) -> None:
    open_gpu()
    for _ in range(10):
        deblur = Deblurrer("nano", "cuda")
        deblur(noise())
        ended: list[object] = []

        def feed(deblur: Deblurrer = deblur, ended: list[object] = ended) -> None:
            try:
                while True:
                    deblur.submit(noise()).result()
            except (EngineError, UsageError) as error:
                ended.append(error)

        threads = [threading.Thread(target=feed) for _ in range(3)]
        for thread in threads:
            thread.start()
        deblur.close()
        for thread in threads:
            thread.join(60)
        assert len(ended) == 3
