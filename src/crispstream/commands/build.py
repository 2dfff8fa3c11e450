# SPDX-License-Identifier: Apache-2.0
"""`crispstream build`: TensorRT plans and INT8 graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from crispstream.commands.common import Debug, Json, PresetArgument, Report, frame_size
from crispstream.errors import EngineError, UsageError


def build(
    preset: PresetArgument,
    size: Annotated[list[str] | None, typer.Option(help="Frame size, WIDTHxHEIGHT; may be repeated.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="Range of sizes instead, SMALLEST:BEST:LARGEST.")] = None,
    backend: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-int8"], typer.Option(help="What to build for.")
    ] = "auto",
    target: Annotated[str | None, typer.Option(help="GPUs that need not be here, such as sm89 or sm86+sm89.")] = None,
    device: Annotated[str, typer.Option(help="GPU to build on, cuda or cuda:N.")] = "cuda",
    calibrate: Annotated[
        str | None, typer.Option(metavar="PATH", help="INT8: folder of pictures, or video, as your camera sees.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Build TensorRT plans of a preset, once for every GPU and frame size, or INT8 graphs of it for this CPU; they go
    to the user's cache."""
    if backend == "onnxruntime-int8":
        if dynamic is not None or target is not None or device != "cuda" or len(size or []) > 1:
            raise UsageError("INT8 graphs are for this CPU and every size", "--size, once: what to time them with")
        return _build_int8(preset, calibrate, size[0] if size else None)
    if calibrate is not None:
        raise UsageError("--calibrate is for INT8 graphs", "add --backend onnxruntime-int8")
    ranges = [(one, one, one) for one in map(frame_size, size or [])]
    if dynamic is not None:
        sizes = [frame_size(text) for text in dynamic.split(":")]
        if len(sizes) != 3:
            raise UsageError(f"'{dynamic}' is not a range of sizes", "such as 640x360:1280x720:1920x1080")
        ranges.append((sizes[0], sizes[1], sizes[2]))
    if not ranges:
        raise UsageError("no frame size is given", "--size 1280x720, or --dynamic 640x360:1280x720:1920x1080")
    try:
        from crispstream.export.plans import build_plans

        data = build_plans(preset, ranges, backend, target, device, quiet=as_json)
    except ModuleNotFoundError as error:
        raise EngineError(f"this needs {error.name}, which is not installed", "pip install onnx") from error
    done = {True: "built before", False: "built"}
    lines = [f"{plan['size']} for {data['target']}: {done[plan['reused']]}, {plan['folder']}" for plan in data["plans"]]
    return Report(data, "\n".join(lines))


def _build_int8(preset: str, calibrate: str | None, size: str | None) -> Report:
    try:
        from crispstream.export.int8 import TIMED_SIZE, build_int8

        data = build_int8(preset, Path(calibrate) if calibrate else None, frame_size(size) if size else TIMED_SIZE)
    except ModuleNotFoundError as error:
        hint = "pip install onnx scikit-image"
        raise EngineError(f"this needs {error.name}, which is not installed", hint) from error
    accuracy, timing = data["accuracy"], data["timing"]
    gain, kept = accuracy["gain_db"], accuracy["gain_db"] - accuracy["loss_db"]
    lines = [
        f"calibrated on {data['calibration']['frames']} frames of {data['calibration']['source']}",
        f"{accuracy['psnr_to_float32']:.1f} dB from FP32 ({accuracy['frames']} other frames)",
        f"gains {kept:.2f} dB on frames that we draw, FP32 {gain:.2f} dB",
        f"{timing['int8_ms']:.1f} ms against {timing['float32_ms']:.1f} ms in FP32 at {timing['size']}: "
        f"{timing['speedup']:.2f} times as fast",
        f"not used unless pinned: {data['reason_against']}" if data["reason_against"] else "used from now on",
        data["folder"],
    ]
    return Report(data, "\n".join(lines))
