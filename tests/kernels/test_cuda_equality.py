# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels return the bytes of the NumPy twin: compiled for the CPU anywhere, as they are on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import (
    COLORS,
    EXAMPLES,
    FORMATS,
    Case,
    cases,
    geometries,
    preset_geometries,
    random_frame,
    random_tensor,
    same_pixels,
)
from device_runs import FindingsList, JobList, Picture, blend, mix_of, sizes_of, statistics, unpack, upload
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import Emulated, Gpu, Machine

from crispstream.frame import ColorSpec, Frame, PixelFormat
from crispstream.kernels import reference
from crispstream.kernels.device import make_job
from crispstream.kernels.geometry import Geometry
from crispstream.model.presets import PRESETS

SEEDS = st.integers(0, 2**32)
PRESET = Geometry.for_size(90, 22, pack=2, multiple=16, map_stride=8)


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Emulated() if request.param == "emulated" else Gpu()
    yield made
    made.close()


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Geometry, Any]:
    """What the presets have, as often as anything else."""
    if draw(st.booleans()):
        return draw(preset_geometries()), np.float16
    return draw(geometries()), draw(st.sampled_from([np.float16, np.float32]))


def test_presets_have_the_geometry_of_the_fast_path() -> None:
    """What all other presets would run is right as well, but slow."""
    assert {(preset.pack, preset.map_stride) for preset in PRESETS.values()} == {(PRESET.pack, PRESET.map_stride)}


def shuffled(case: Case, rng: np.random.Generator) -> Case:
    """Another case like this one: other pixels, the same values elsewhere, another mix."""

    def shuffle(tensor: Any) -> Any:
        return None if tensor is None else rng.permutation(tensor.reshape(-1)).reshape(tensor.shape)

    def another(frame: Frame) -> Frame:
        return random_frame(rng, frame.format, (frame.width, frame.height), frame.color)

    return replace(
        case,
        frame=another(case.frame),
        out=another(case.out),
        head=shuffle(case.head),
        foreground=shuffle(case.foreground),
        background=shuffle(case.background),
        options={"strength": rng.random(), "mask_gain": rng.random(), "mask_bias": rng.random()},
    )


def check_blend(machine: Machine, batch: list[Case], aligned: bool, in_place: bool = False) -> None:
    expected = [case.out.empty_like() for case in batch]
    dropped = [case.blend(reference, out) for case, out in zip(batch, expected, strict=True)]
    outs, counts = blend(machine, batch, aligned, in_place)
    assert counts == dropped
    assert all(map(same_pixels, outs, expected))


@pytest.mark.parametrize("pixel_format", FORMATS)
@settings(EXAMPLES, max_examples=60)
@given(shape=shapes(), color=st.sampled_from(COLORS), aligned=st.booleans(), batch=st.integers(1, 3), seed=SEEDS)
def test_unpack(
    machine: Machine,
    pixel_format: PixelFormat,
    shape: tuple[Geometry, Any],
    color: ColorSpec,
    aligned: bool,
    batch: int,
    seed: int,
) -> None:
    geometry, dtype = shape
    rng = np.random.default_rng(seed)
    frames = [random_frame(rng, pixel_format, (geometry.width, geometry.height), color) for _ in range(batch)]
    expected = np.empty((batch, *geometry.packed_shape), dtype)
    for frame, packed in zip(frames, expected, strict=True):
        reference.unpack(frame, geometry, packed)
    assert unpack(machine, frames, geometry, dtype, aligned).tobytes() == expected.tobytes()


@pytest.mark.parametrize("out_format", FORMATS)
@pytest.mark.parametrize("pixel_format", FORMATS)
@settings(EXAMPLES, max_examples=40)
@given(data=st.data(), shape=shapes(), aligned=st.booleans(), batch=st.integers(1, 3), seed=SEEDS)
def test_blend(
    machine: Machine,
    pixel_format: PixelFormat,
    out_format: PixelFormat,
    data: st.DataObject,
    shape: tuple[Geometry, Any],
    aligned: bool,
    batch: int,
    seed: int,
) -> None:
    case: Case = data.draw(cases(pixel_format, out_format, *shape))
    rng = np.random.default_rng(seed)
    check_blend(machine, [case, *(shuffled(case, rng) for _ in range(batch - 1))], aligned)


@pytest.mark.parametrize("pixel_format", FORMATS)
@settings(EXAMPLES, max_examples=40)
@given(data=st.data(), shape=shapes(), aligned=st.booleans())
def test_blend_in_place(
    machine: Machine, pixel_format: PixelFormat, data: st.DataObject, shape: tuple[Geometry, Any], aligned: bool
) -> None:
    case: Case = data.draw(cases(pixel_format, pixel_format, *shape))
    check_blend(machine, [replace(case, out=case.frame)], aligned, in_place=True)


@settings(EXAMPLES, max_examples=80)
@given(shape=shapes(), batch=st.integers(1, 3), wild=st.booleans(), seed=SEEDS)
def test_statistics(machine: Machine, shape: tuple[Geometry, Any], batch: int, wild: bool, seed: int) -> None:
    geometry, dtype = shape
    heads = random_tensor(np.random.default_rng(seed), (batch, *geometry.head_shape), dtype, 1.0, wild)
    if 16 % geometry.map_stride:
        with pytest.raises(ValueError, match="16"):
            statistics(machine, geometry, heads)
        return
    found = statistics(machine, geometry, heads)
    assert [(f.people, f.rest) for f in found] == [reference.statistics(geometry, head) for head in heads]
    assert not any(f.non_finite for f in found)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_code_and_chroma(machine: Machine, dtype: type) -> None:
    """Every luma code against every chroma code, in every colour."""
    geometry = Geometry.for_size(512, 256, pack=2, multiple=16, map_stride=8)
    luma = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 512, 1)
    u = np.repeat(np.arange(256, dtype=np.uint8)[None], 128, 0)
    for color in COLORS:
        frame = Frame((luma, u, u[:, ::-1].copy()), PixelFormat.I420, color)
        expected = np.empty(geometry.packed_shape, dtype)
        reference.unpack(frame, geometry, expected)
        assert unpack(machine, [frame], geometry, dtype, aligned=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize("pixel_format", [PixelFormat.BGR24, PixelFormat.NV12])
def test_half_floats_of_every_magnitude(machine: Machine, pixel_format: PixelFormat) -> None:
    """All 65536 half floats as residual, by the hardware's conversion on a GPU."""
    geometry = Geometry.for_size(512, 128, pack=2, multiple=16, map_stride=8)
    values = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 4, 64, 256)
    frame = random_frame(np.random.default_rng(0), pixel_format, (512, 128), ColorSpec())
    head = np.ones(geometry.head_shape, np.float16)
    case = Case(frame, geometry, head, np.concatenate([values] * 3, 1), None, frame.empty_like(), {})
    check_blend(machine, [case], aligned=True)
    assert case.blend(reference) == 3 * 2 * 1024


def test_findings_add_up(machine: Machine) -> None:
    """Statistics sets the findings of a frame, the blend adds to them; without findings nothing is counted."""
    geometry, rng = PRESET, np.random.default_rng(1)
    frame = random_frame(rng, PixelFormat.RGB24, (geometry.width, geometry.height), ColorSpec())
    head = rng.random(geometry.head_shape).astype(np.float16)
    residual = upload(machine, [random_tensor(rng, geometry.packed_shape, np.float16, 1.0, wild=True)])
    picture, tensor, findings = Picture(machine, frame, True), upload(machine, [head]), FindingsList(machine, 1)
    jobs, sizes = JobList(machine, [make_job(picture.image, picture.image)]), sizes_of(geometry, np.float16)

    def enqueue() -> None:
        machine.kernels.statistics(sizes, 1, tensor.address, findings.address, machine.stream)
        for where in (findings.address, findings.address, None):
            arguments = (tensor.address, residual.address, None, where, machine.stream)
            machine.kernels.blend(jobs.host, jobs.address, 1, sizes, *arguments)

    machine.call(enqueue)
    machine.synchronize()
    (found,) = findings.read()
    assert (found.people, found.rest) == reference.statistics(geometry, head)
    assert found.non_finite > 0 and found.non_finite % 2 == 0


def test_graph_follows_its_jobs(machine: Machine) -> None:
    """Recorded once; every replay reads the planes and the mix that the jobs on the device name then."""
    rng, size = np.random.default_rng(2), (PRESET.width, PRESET.height)
    frame = random_frame(rng, PixelFormat.NV12, size, ColorSpec())
    head = rng.random(PRESET.head_shape).astype(np.float16)
    branches = [random_tensor(rng, PRESET.packed_shape, np.float16, 0.5, wild=True) for _ in range(2)]
    recorded = Case(frame, PRESET, head, *branches, frame.empty_like(), {})
    replays = [
        replace(shuffled(recorded, rng), head=head, foreground=branches[0], background=branches[1]) for _ in range(3)
    ]
    tensors = [upload(machine, [tensor]) for tensor in (head, *branches)]
    packed = upload(machine, [np.zeros(PRESET.packed_shape, np.float16)])
    findings, sizes = FindingsList(machine, 1), sizes_of(PRESET, np.float16)
    pictures = [
        (Picture(machine, case.frame, i % 2 == 0), Picture(machine, case.out, True)) for i, case in enumerate(replays)
    ]
    described = [make_job(s.image, o.image, mix_of(case)) for (s, o), case in zip(pictures, replays, strict=True)]
    jobs = JobList(machine, described[:1])

    def enqueue() -> None:
        kernels, stream = machine.kernels, machine.stream
        kernels.unpack(jobs.host, jobs.address, 1, sizes, packed.address, stream)
        kernels.statistics(sizes, 1, tensors[0].address, findings.address, stream)
        addresses = [tensor.address for tensor in tensors]
        kernels.blend(jobs.host, jobs.address, 1, sizes, *addresses, findings.address, stream)

    def record() -> int:
        machine.kernels.capture_begin(machine.stream)
        enqueue()
        return machine.kernels.capture_end(machine.stream)

    machine.call(enqueue)  # what is recorded has run once
    machine.synchronize()
    graph = machine.call(record)
    for job, case, (_, out) in zip(described, replays, pictures, strict=True):
        jobs.rewrite([job])
        machine.call(machine.kernels.graph_launch, graph, machine.stream)
        machine.synchronize()
        expected, tensor = case.out.empty_like(), np.empty(PRESET.packed_shape, np.float16)
        reference.unpack(case.frame, PRESET, tensor)
        dropped = case.blend(reference, expected)
        assert same_pixels(out.read(), expected)
        assert packed.read().tobytes() == tensor.tobytes()
        (found,) = findings.read()
        assert (found.people, found.rest, found.non_finite) == (*reference.statistics(PRESET, head), dropped)
    machine.call(machine.kernels.graph_destroy, graph)
