# SPDX-License-Identifier: Apache-2.0
"""The command line. A command returns a ``Report``; ``main`` prints it and turns failures into one line each."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from crispstream import __version__
from crispstream.errors import CrispStreamError, EngineError, InputError, OutputError, UsageError

INTERRUPTED = 130
EPILOG = """Exit codes: 0 done; 1 unexpected failure; 2 wrong usage; 3 the input is missing or unreadable; 4 the output
cannot be written; 5 an engine is missing, damaged or does not fit; 130 interrupted."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a command found: ``data`` for ``--json``, ``text`` for people, and the exit code."""

    data: dict[str, Any]
    text: str
    exit_code: int = 0


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Remove motion blur from video, people and background each in their own way.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PresetArgument = Annotated[str, typer.Argument(help="Preset, as `crispstream engines` lists them.")]
PresetOption = Annotated[str, typer.Option(help="Preset, as `crispstream engines` lists them.")]
Strength = Annotated[float, typer.Option(min=0.0, max=2.0, help="How much of the correction is applied.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; the CPU quota if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
# `main` looks for these two itself: they count for errors before the options are parsed, too.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        raise typer.Exit(_print(f"crispstream {__version__}"))


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")] = False,
) -> None:
    pass


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Video, picture or folder of pictures.")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="Where the result goes; its suffix says the format.")],
    preset: PresetOption = "nano",
    strength: Strength = 1.0,
    engine_backend: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-int8", "onnxruntime", "torch"],
        typer.Option(help="Pin one engine."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where the engine runs: auto, cpu, cuda or cuda:N.")] = "auto",
    encoder: Annotated[str | None, typer.Option(help="Video encoder, such as h264 or hevc.")] = None,
    crf: Annotated[int | None, typer.Option(min=0, help="Video quality, 0 is best.")] = None,
    speed: Annotated[str, typer.Option(help="Encoder speed, ultrafast to veryslow.")] = "veryfast",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Picture quality (JPEG, WebP).")] = 95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    threads: Threads = None,
    no_gating: Annotated[bool, typer.Option("--no-gating", help="Run both branches on every frame.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Sharpen a video, a picture or a folder of pictures."""
    from crispstream import files

    report = files.run(
        source,
        target,
        preset=preset,
        device=device,
        strength=strength,
        backend=engine_backend,
        gating=not no_gating,
        threads=threads,
        encoder=encoder,
        crf=crf,
        speed=speed,
        quality=quality,
        overwrite=overwrite,
        progress=not quiet and not as_json,
    )
    lines = [f"{report.output}: {report.frames} frames, {report.width}x{report.height}, {report.fps:.1f} fps"]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"left out: {stream}" for stream in report.skipped]
    lines += [f"failed: {name}: {reason}" for name, reason in report.failed]
    code = INTERRUPTED if report.interrupted else InputError.exit_code if report.failed else 0
    return Report(report.to_dict(), "" if quiet else "\n".join(lines), code)


@app.command()
def demo(
    source: Annotated[str | None, typer.Option("--input", help="Your own picture or clip.")] = None,
    output: Annotated[str, typer.Option(help="Folder for the results.")] = "demo",
    preset: PresetOption = "nano",
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Blur and restore a photograph of a person; leaves a before/after picture, a short video and the mask."""
    try:
        from crispstream.demo import run_demo

        print("crispstream: blurring and restoring; about a minute on two cores", file=sys.stderr)
        data = run_demo(source, output, preset)
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "demo", ("skimage", "scipy")) from error
    lines = [f"{data['fps']:.1f} fps, codecs included ({data['engine']})", *data["files"]]
    if data["psnr_restored"] is not None:
        lines.insert(0, f"PSNR {data['psnr_blurred']:.2f} dB blurred, {data['psnr_restored']:.2f} dB restored")
    return Report(data, "\n".join(lines))


@app.command()
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


@app.command()
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

        data = verify_preset(preset) if device == "cpu" else verify_gpu(preset, device, _size(size))
    except ModuleNotFoundError as error:
        raise _missing_extra(error, "export", ("torch", "onnx", "onnxscript")) from error
    return Report(data, "\n".join(f"{key}: {_short(value)}" for key, value in data.items()))


@app.command()
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

    data = measure(preset, _size(size), frames, threads)
    return Report(data, "\n".join(f"{key}: {_short(value)}" for key, value in data.items()))


@app.command()
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
    ranges = [(one, one, one) for one in map(_size, size or [])]
    if dynamic is not None:
        sizes = [_size(text) for text in dynamic.split(":")]
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

        data = build_int8(preset, Path(calibrate) if calibrate else None, _size(size) if size else TIMED_SIZE)
    except ModuleNotFoundError as error:
        raise EngineError(f"this needs {error.name}, which is not installed", "pip install onnx") from error
    accuracy, timing = data["accuracy"], data["timing"]
    lost = f", {accuracy['loss_db']:.3f} dB lost against the truth" if "loss_db" in accuracy else ""
    lines = [
        f"calibrated on {data['calibration']['frames']} frames of {data['calibration']['source']}",
        f"{accuracy['psnr_to_float32']:.1f} dB from FP32{lost} ({accuracy['frames']} other frames)",
        f"{timing['int8_ms']:.1f} ms against {timing['float32_ms']:.1f} ms in FP32 at {timing['size']}: "
        f"{timing['speedup']:.2f} times as fast",
        f"not used unless pinned: {data['reason_against']}" if data["reason_against"] else "used from now on",
        data["folder"],
    ]
    return Report(data, "\n".join(lines))


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> Report:
    """Say what is here, what is missing and what to type."""
    from crispstream.doctor import diagnose, healthy

    checks = diagnose()
    lines = [f"{c.status:8}{c.name}: {c.detail}" + (f"\n        {c.hint}" if c.hint else "") for c in checks]
    good = healthy(checks)
    lines.append("The default path works." if good else "The default path does not work.")
    data = {"healthy": good, "checks": [asdict(check) for check in checks]}
    return Report(data, "\n".join(lines), 0 if good else EngineError.exit_code)


def _engine_lines(name: str, entry: dict[str, Any]) -> list[str]:
    """One preset for people."""
    cost = entry["macs_per_pixel"]["all"] / 1000
    lines = [f"{name}: {'shipped' if entry['shipped'] else 'not shipped'}, {cost:.1f} kMAC a pixel"]
    lines += [f"  {part} sha256 {digest[:16]}" for part, digest in entry.get("sha256", {}).items()]
    lines += [f"  {key}: {_short(entry[key])}" for key in ("error", "quality", "parity", "int8") if entry.get(key)]
    return lines


def _size(text: str) -> tuple[int, int]:
    from crispstream.frame import MAX_SIDE

    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UsageError(f"'{text}' is not a frame size", "WIDTHxHEIGHT, such as 640x360")
    width, height = int(match[1]), int(match[2])
    if max(width, height) > MAX_SIDE:
        raise UsageError(f"'{text}' is too large", f"a side may have {MAX_SIDE} pixels at most")
    return width, height


def _short(value: Any) -> str:
    """A figure for people: floats to four digits, nested ones in line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_short(item) for item in value)
    return str(value)


def _missing_extra(error: ModuleNotFoundError, extra: str, modules: tuple[str, ...]) -> Exception:
    """The failure to raise for ``error``: a hint where an extra of ours was left out, else the error itself."""
    if (error.name or "").partition(".")[0] not in modules:
        return error
    return EngineError(f"this needs {error.name}, which is not installed", f"pip install 'crispstream[{extra}]'")


def main() -> None:
    """Run the command line; what ``crispstream`` on the PATH calls. Always raises SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold bytes that no encoding can say
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] or ["--help"]
    as_json = "--json" in arguments
    try:
        result = app(args=arguments, prog_name="crispstream", standalone_mode=False)
    except CrispStreamError as error:
        sys.exit(_fail(str(error), error.hint, error.exit_code, as_json))
    except typer.TyperException as error:
        sys.exit(_fail(error.format_message(), "see crispstream --help", error.exit_code, as_json))
    except Exception as error:
        hint = "run again with --debug for the traceback"
        # The help is printed in there: what standard output would not take is still in its buffer.
        sys.exit(_print("") or _fail(f"{type(error).__name__}: {error}", hint, 1, as_json))
    if isinstance(result, Report):
        output = json.dumps(result.data, indent=2, default=str) if as_json else result.text
        sys.exit(_print(output) or result.exit_code)
    if result == INTERRUPTED:
        _fail("interrupted", "", INTERRUPTED, as_json)
    sys.exit(result or 0)


def _print(text: str) -> int:
    """Print ``text`` on standard output; the exit code: OutputError's where it takes no more."""
    error = _write(text, sys.stdout)
    if error is None or isinstance(error, BrokenPipeError):  # whoever read the pipe has seen enough
        return 0
    return _fail(f"cannot write to standard output: {error.strerror}", "", OutputError.exit_code, as_json=False)


def _write(text: str, stream: TextIO) -> OSError | None:
    """Write ``text`` as a line, if there is any, and what the stream holds back; the error that stopped it."""
    try:
        print(text, end="\n" if text else "", file=stream, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter's last flush must not complain
        return error
    return None


def _fail(message: str, hint: str, code: int, as_json: bool) -> int:
    """Say what failed, in one line or as JSON; returns the exit code."""
    if "--debug" in sys.argv and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if as_json:
        _print(json.dumps({"error": {"message": message, "hint": hint, "exit_code": code}}))
    line = f"crispstream: error: {message}" + (f" ({hint})" if hint else "")
    _write(" ".join(line.split()), sys.stderr)
    return code


if __name__ == "__main__":
    main()
