# SPDX-License-Identifier: Apache-2.0
"""`crispstream engines`, `verify` and `bench`: what is known of a preset, and what can be measured of it."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from crispstream.commands.common import Debug, Json, PresetArgument, Report, Threads, frame_size, missing_extra, short
from crispstream.errors import EngineError, UsageError


def engines(as_json: Json = False, debug: Debug = False) -> Report:
    """List the presets and what is known of each: graphs, cost, parity, quality."""
    from crispstream import manifest, quantised
    from crispstream.model.presets import PRESETS

    data: dict[str, Any] = {}
    for name, preset in PRESETS.items():
        cost = preset.macs_per_pixel()
        cost["all"] = sum(cost.values())
        data[name] = {"shipped": name in manifest.available_presets(), "macs_per_pixel": cost}
        if not data[name]["shipped"]:
            continue
        try:
            engine = manifest.load(name)
            hashes = {part: graph.sha256 for part, graph in engine.graphs.items()}
            data[name] |= {**engine.summary(), "sha256": {**hashes, "weights": engine.weights.sha256}}
            if quantised.folder_for(engine).exists():
                data[name]["int8"] = quantised.describe(engine)
        except EngineError as error:
            data[name]["error"] = str(error)
    failed = any("error" in entry for entry in data.values())
    lines = [line for name, entry in data.items() for line in _engine_lines(name, entry)]
    return Report({"presets": data}, "\n".join(lines), EngineError.exit_code if failed else 0)


def verify(
    preset: PresetArgument = "nano",
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda or cuda:N.")] = "cpu",
    size: Annotated[str, typer.Option(help="Frame size on a GPU, WIDTHxHEIGHT.")] = "1280x720",
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Compare every engine of a preset with FP32 PyTorch; those of the CPU leave the figures in its manifest."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"unknown device '{device}'", "cpu, cuda or cuda:N")
    try:
        from crispstream.export.verify import verify as verify_preset
        from crispstream.export.verify_gpu import verify_gpu

        data = verify_preset(preset) if device == "cpu" else verify_gpu(preset, device, frame_size(size))
    except ModuleNotFoundError as error:
        raise missing_extra(error, "export", ("torch", "onnx", "onnxscript")) from error
    return Report(data, "\n".join(f"{key}: {short(value)}" for key, value in data.items()))


def bench(
    preset: PresetArgument = "nano",
    size: Annotated[str, typer.Option(help="Frame size, WIDTHxHEIGHT.")] = "640x360",
    frames: Annotated[int, typer.Option(min=1, help="Frames to measure.")] = 100,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Measure the CPU's engine alone and the whole path from memory to memory, without a codec."""
    from crispstream.bench import bench as measure

    data = measure(preset, frame_size(size), frames, threads)
    return Report(data, "\n".join(f"{key}: {short(value)}" for key, value in data.items()))


_TELLING = ("psnr_blurred", "psnr_restored", "gain_person", "gain_background", "no_harm_psnr")
"""Of a quality set, the figures for people; `--json` has them all."""


def _engine_lines(name: str, entry: dict[str, Any]) -> list[str]:
    """One preset for people: a line for each set of figures."""
    cost = entry["macs_per_pixel"]["all"] / 1000
    lines = [f"{name}: {'shipped' if entry['shipped'] else 'not shipped'}, {cost:.1f} kMAC a pixel"]
    lines += [f"  {part} sha256 {digest[:16]}" for part, digest in entry.get("sha256", {}).items()]
    lines += [f"  error: {entry['error']}"] if "error" in entry else []
    for group in ("quality", "parity", "int8"):
        if entry.get(group):
            lines += [f"  {group}", *(line for item in entry[group].items() for line in _set_lines(*item))]
    return lines


def _set_lines(name: str, figures: Any) -> list[str]:
    """One set of figures; a set of sets has a line for each of them."""
    if isinstance(figures, dict) and figures and all(isinstance(inner, dict) for inner in figures.values()):
        return [f"    {name}, {key}: {short(inner)}" for key, inner in figures.items()]
    if isinstance(figures, dict):
        figures = {key: figures[key] for key in _TELLING if key in figures} or figures
    return [] if figures == "" else [f"    {name}: {short(figures)}"]
