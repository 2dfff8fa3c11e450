# SPDX-License-Identifier: Apache-2.0
"""`crispstream run`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crispstream.commands.common import INTERRUPTED, Debug, Json, PresetOption, Quiet, Report, Strength, Threads
from crispstream.errors import InputError

if TYPE_CHECKING:
    from crispstream.jobs import JobReport
    from crispstream.report import RunReport


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
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Begin here, such as 12.5 or 1:02.5.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="End here, at a time of the input.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    threads: Threads = None,
    no_gating: Annotated[bool, typer.Option("--no-gating", help="Run both branches on every frame.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Sharpen a video, a picture or a folder of pictures."""
    from crispstream import files

    progress = not quiet and not as_json
    options: dict[str, Any] = {
        "preset": preset,
        "device": device,
        "strength": strength,
        "backend": engine_backend,
        "gating": not no_gating,
        "threads": threads,
    }
    settings: dict[str, Any] = {
        "encoder": encoder,
        "crf": crf,
        "speed": speed,
        "quality": quality,
        "start": start,
        "end": end,
    }
    if Path(source).is_dir():
        from crispstream.jobs import FolderJob

        job = FolderJob(Path(source), Path(target), settings, options, overwrite)
        return _folder_report(job.run(progress), quiet)
    report = files.run(source, target, overwrite=overwrite, progress=progress, **settings, **options)
    lines = [_summary(report), *_remarks(report)]
    code = INTERRUPTED if report.interrupted else InputError.exit_code if report.failed else 0
    return Report(report.to_dict(), "" if quiet else "\n".join(lines), code)


def _summary(report: RunReport) -> str:
    return f"{report.output}: {report.frames} frames, {report.width}x{report.height}, {report.fps:.1f} fps"


def _remarks(report: RunReport) -> list[str]:
    lines = [f"warning: {warning}" for warning in report.warnings]
    lines += [f"left out: {stream}" for stream in report.skipped]
    return lines + [f"failed: {name}: {reason}" for name, reason in report.failed]


def _folder_report(report: JobReport, quiet: bool) -> Report:
    lines = [f"{Path(one.input).name}: {line}" for one in report.files for line in _remarks(one)]
    lines += [f"failed: {name}: {reason}" for name, reason in report.failed]
    done, kept, failed = (len(items) for items in (report.files, report.unchanged, report.failed))
    lines.append(f"{report.output}: {done} done, {kept} finished before, {failed} failed, {report.seconds:.1f} s")
    if report.interrupted:
        lines.append("interrupted: the same command goes on from here")
    code = INTERRUPTED if report.interrupted else report.exit_code
    return Report(report.to_dict(), "" if quiet else "\n".join(lines), code)
