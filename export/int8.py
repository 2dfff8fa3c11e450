# SPDX-License-Identifier: Apache-2.0
"""What ``crispstream build --backend onnxruntime-int8`` does: quantise, judge, time, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from crispstream import cpu
from crispstream.engine.int8 import Int8Engine
from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.errors import InputError
from crispstream.frame import Frame
from crispstream.gating import Decision
from crispstream.kernels import bindings
from crispstream.manifest import Manifest, load
from crispstream.metrics import psnr
from crispstream.plan import Size, size_text
from crispstream.quantised import BACKEND, Quantised, describe, folder_for, part_file
from crispstream.runners.cpu import CpuRunner
from crispstream.runners.protocol import geometry_of

from .int8_frames import CalibrationFrames, calibration_frames, portrait
from .int8_graph import quantise
from .int8_rounding import Array

TIMED_SIZE: Size = (640, 360)
ROUNDS = 30
DRAWN = 2
"""Frames of the moving portrait that graphs from the user's frames are judged by as well."""
LEAST_CHANGE = 1e-3
"""Mean squared change, in codes, that FP32 makes to a frame that shows something. Sharp films of people have 0.02, a
grey picture with faint noise 0.0001."""


def build_int8(preset: str | Path, calibrate: Path | None = None, size: Size = TIMED_SIZE) -> dict[str, Any]:
    """Make the INT8 graphs of ``preset`` (a name or a folder), judge them, time them against FP32, put them into the
    user's cache.

    ``calibrate``: folder of pictures, or video, that shows the ranges; None: frames that we draw. What the user's own
    frames do not show cannot be judged on them, so frames that we draw judge, too. ``size``: of the frames to time
    with, width and height. Returns what was made and, as ``reason_against``, why it is not used unless
    pinned ("": it is used); plain values.
    Raises UsageError, InputError, EngineError, OutputError.
    """
    engine = load(preset)
    frames = calibration_frames(calibrate)
    drawn = portrait(DRAWN) if calibrate is not None else []
    float32 = OnnxRuntimeEngine(engine)
    _check_shown(float32, frames)
    graphs = quantise(engine, [_packed(engine, frame) for frame in frames.shown])
    with TemporaryDirectory() as folder:
        made = Quantised(
            folder=Path(folder),
            preset=engine.preset,
            weights=engine.weights.sha256,
            parts={part: part_file(part, graph) for part, graph in graphs.items()},
            onnxruntime=onnxruntime.__version__,
            cpu=cpu.model(),
            calibration={"source": frames.source, "frames": len(frames.shown)},
            accuracy={},
            timing={},
        )
        made.write(graphs)
        int8 = Int8Engine(engine, made)
        accuracy, timing = _accuracy(float32, int8, frames.aside, drawn), _timing(float32, int8, size)
        made = replace(made, folder=folder_for(engine), accuracy=accuracy, timing=timing)
    made.write(graphs)
    return {"preset": engine.preset, "backend": BACKEND, "folder": str(made.folder), **describe(engine)}


def _packed(engine: Manifest, frame: Frame) -> Array:
    geometry = geometry_of(engine, (frame.width, frame.height))
    packed = np.empty(geometry.packed_shape, np.float32)
    bindings.unpack(frame, geometry, packed)
    return packed


def _check_shown(full: OnnxRuntimeEngine, frames: CalibrationFrames) -> None:
    """Raise InputError where FP32 leaves all frames as they are: ranges from such frames switch the restoring off."""
    runner = CpuRunner(full)
    for frame in frames.shown:
        one, other = _samples(frame), _samples(runner.submit(frame, Decision(), 1.0).result().frame)
        if np.square(one.astype(np.float32) - other).mean() >= LEAST_CHANGE:
            return
    raise InputError(
        f"{frames.source} shows nothing that could be restored",
        "give a video or pictures as your camera sees them, with people who move",
    )


def _accuracy(
    full: OnnxRuntimeEngine,
    quantised: Int8Engine,
    frames: Sequence[tuple[Frame, Frame | None]],
    drawn: Sequence[tuple[Frame, Frame | None]],
) -> dict[str, Any]:
    """Means over finished 8-bit frames: of ``frames`` the PSNR to FP32; of those of both whose truth is known the PSNR
    that FP32 gains over the blurred frame, and what of it INT8 loses."""
    likeness, gains, losses = list[float](), list[float](), list[float]()
    runners = (CpuRunner(full), CpuRunner(quantised))
    for frame, truth in (*frames, *drawn):
        outputs = [runner.submit(frame, Decision(), 1.0).result().frame for runner in runners]
        likeness.append(_psnr(outputs[1], outputs[0]))
        if truth is not None:
            gains.append(_psnr(outputs[0], truth) - _psnr(frame, truth))
            losses.append(_psnr(outputs[0], truth) - _psnr(outputs[1], truth))
    own = likeness[: len(frames)]
    return {"frames": len(own), "psnr_to_float32": mean(own), "gain_db": mean(gains), "loss_db": mean(losses)}


def _psnr(frame: Frame, truth: Frame) -> float:
    return psnr(_samples(frame), _samples(truth))


def _samples(frame: Frame) -> npt.NDArray[np.uint8]:
    """All samples of all planes."""
    return np.concatenate([plane.ravel() for plane in frame.planes])


def _timing(full: OnnxRuntimeEngine, quantised: Int8Engine, size: Size) -> dict[str, Any]:
    """Medians of the three parts, in milliseconds; the two take turns. Their time does not depend on the pixels."""
    sessions = [engine.session(geometry_of(full.manifest, size)) for engine in (full, quantised)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for session in sessions:
        session.packed[:] = np.random.default_rng(0).random(session.packed.shape, np.float32)
        session.run()
    for _ in range(ROUNDS):
        for session, times in zip(sessions, seconds, strict=True):
            start = perf_counter()
            session.run()
            times.append(perf_counter() - start)
    float32, int8 = (1000 * median(times) for times in seconds)
    what = {"size": size_text(size), "threads": full.threads, "instructions": list(cpu.int8_instructions())}
    return {**what, "float32_ms": float32, "int8_ms": int8, "speedup": float32 / int8}
