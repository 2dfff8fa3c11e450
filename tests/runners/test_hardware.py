# SPDX-License-Identifier: Apache-2.0
"""The GPU path on a GPU, by every engine that opens there: ``make test-gpu``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from smeared import smeared

from crispstream import Deblurrer, Frame, PixelFormat
from crispstream.cuda.driver import load, probe
from crispstream.engine.select import ON_GPU
from crispstream.errors import EngineError
from crispstream.export.verify import HALF_BOUND
from crispstream.frame import ColorSpec
from crispstream.manifest import load as load_manifest
from crispstream.model.network import HumanAwareNet
from crispstream.model.presets import preset
from crispstream.model.weights import load_network
from crispstream.runners.gpu import GpuRunner

pytestmark = pytest.mark.gpu

SIZE = (640, 360)


def noise(pixel_format: PixelFormat = PixelFormat.BGR24, size: tuple[int, int] = SIZE, seed: int = 0) -> Frame:
    return smeared(pixel_format, size, seed, ColorSpec())


@pytest.fixture(scope="module")
def cuda_torch() -> None:
    """Needed by the torch engine on a GPU, and by what compares with PyTorch there."""
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} here has no CUDA: install a build of PyTorch for this GPU")


@pytest.fixture(scope="module", params=ON_GPU)
def deblur(request: pytest.FixtureRequest) -> Iterator[Deblurrer]:
    if request.param == "torch":
        request.getfixturevalue("cuda_torch")
    try:
        opened = Deblurrer("nano", "cuda", backend=request.param)
        opened(noise())
    except EngineError as error:
        if request.param == "torch":
            raise  # it needs no plan
        pytest.skip(f"{request.param} does not open here: {error} ({error.hint})")
    with opened:
        yield opened


@pytest.fixture(scope="module")
def networks(cuda_torch: None) -> tuple[HumanAwareNet, HumanAwareNet]:
    """The network in FP32, and in plain FP16 on the GPU."""
    paths = [load_manifest("nano").weights_path] * 2
    exact, half = (load_network(preset("nano"), path) for path in paths)
    return exact, half.half().cuda()


@torch.no_grad()
def floating(net: HumanAwareNet, frame: Frame) -> npt.NDArray[np.float32]:
    """The network's picture in codes, before rounding: (H, W, 3), B, G, R."""
    weight = next(net.parameters())
    image = torch.from_numpy(np.ascontiguousarray(frame.planes[0][..., ::-1])).permute(2, 0, 1)[None] / 255
    out = net(image.to(weight)).image.float().cpu()[0].permute(1, 2, 0).clamp(0, 1) * 255
    return np.ascontiguousarray(out.numpy()[..., ::-1])


def test_against_fp32(deblur: Deblurrer, networks: tuple[HumanAwareNet, HumanAwareNet]) -> None:
    exact, half = networks
    for seed in range(3):
        frame = noise(seed=seed)
        spec = floating(exact, frame)
        plain = float(np.abs(floating(half, frame) - spec).max())
        found = float(np.abs(deblur(frame).planes[0] - spec).max())
        assert found <= HALF_BOUND * plain + 0.5 + 1e-3, "half a code is the rounding of the finished frame"
    assert deblur.stats.non_finite == 0


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_against_the_cpu_engine(deblur: Deblurrer, pixel_format: PixelFormat) -> None:
    frame = noise(pixel_format)
    with Deblurrer("nano", "cpu") as cpu:
        differences = [np.abs(a.astype(int) - b) for a, b in zip(deblur(frame).planes, cpu(frame).planes, strict=True)]
    assert max(int(d.max()) for d in differences) <= 2
    assert all(float((d > 0).mean()) < 0.05 for d in differences)


def test_a_stream_in_flight_equals_one_frame_at_a_time(deblur: Deblurrer) -> None:
    frames = [noise(seed=i // 5) for i in range(60)]
    single = deblur.open_stream()
    expected = [single.process(frame) for frame in frames]
    for found, wanted in zip(deblur.stream(iter(frames)), expected, strict=True):
        assert np.array_equal(found.planes[0], wanted.planes[0])


def test_pinned_and_pageable_agree(deblur: Deblurrer) -> None:
    frame = deblur.pinned_frame(*SIZE, color=ColorSpec())
    frame.planes[0][...] = noise().planes[0]
    assert np.array_equal(deblur(frame).planes[0], deblur(noise()).planes[0])


@pytest.mark.usefixtures("cuda_torch")
def test_frames_of_pytorch_stay_on_the_gpu(deblur: Deblurrer) -> None:
    wanted = torch.from_numpy(deblur(noise().planes[0]))
    there = torch.from_numpy(noise().planes[0]).cuda()
    assert torch.equal(torch.from_dlpack(deblur(there)).cpu(), wanted)
    blurred = (there.float() + 0).round().to(torch.uint8)  # still being computed when it is handed over
    assert torch.equal(torch.from_dlpack(deblur(blurred)).cpu(), wanted)


def test_capture_and_replay_of_every_slot(deblur: Deblurrer) -> None:
    runner: Any = deblur._runner
    assert isinstance(runner, GpuRunner)
    wanted = deblur(noise()).planes[0]
    for _ in range(20):
        pending = [deblur.submit(noise()) for _ in range(4)]
        assert all(np.array_equal(p.result().planes[0], wanted) for p in pending)


def test_ten_thousand_frames_hold_memory_flat(deblur: Deblurrer) -> None:
    frame = noise(size=(320, 180))

    def used() -> int:
        free, total = deblur.engine.worker.call(deblur.engine.worker.device.memory)  # type: ignore[union-attr]
        return int(total - free)

    stream, levels = deblur.open_stream(), []
    for i in range(10_000):
        last = stream.submit(frame)
        if i % 1000 == 999:
            last.result()
            levels.append(used())
    assert max(levels[1:]) - levels[1] <= 4 * 2**20, levels


@pytest.mark.usefixtures("cuda_torch")
def test_opened_and_closed_a_hundred_times() -> None:
    drv = load()
    assert drv is not None
    levels = []
    for _ in range(100):
        with Deblurrer("nano", "cuda", backend="torch") as opened:
            opened(noise(size=(64, 48)))
            free, total = opened.engine.worker.call(opened.engine.worker.device.memory)  # type: ignore[union-attr]
            levels.append(total - free)
    assert levels[-1] - levels[9] <= 64 * 2**20, levels


@pytest.mark.usefixtures("cuda_torch")
def test_two_workers_in_two_threads() -> None:
    found: dict[int, list[npt.NDArray[np.uint8]]] = {}
    last = len(probe().gpus) - 1

    def work(number: int) -> None:
        with Deblurrer("nano", f"cuda:{number * last}", backend="torch") as opened:
            found[number] = [f.planes[0] for f in opened.stream(noise(seed=i) for i in range(20))]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True))
