# SPDX-License-Identifier: Apache-2.0
"""`crispstream run`: the main job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crispstream.commands.common import (
    INTERRUPTED,
    Debug,
    Json,
    PresetOption,
    Quiet,
    Report,
    Strength,
    Threads,
    frame_rate,
    frame_size,
)
from crispstream.errors import InputError, UsageError

if TYPE_CHECKING:
    from crispstream.dry_run import DryRun
    from crispstream.jobs import FolderJob, JobReport
    from crispstream.report import RunReport


def run(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Video, picture, folder, in_%04d.png, '*.png', or - for a pipe.")
    ],
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
    size: Annotated[str | None, typer.Option(help="The input is raw frames of this size, WIDTHxHEIGHT.")] = None,
    pixel_format: Annotated[
        str | None, typer.Option(help="Of raw frames, in and out: bgr24, rgb24, nv12, i420; without it yuv4mpeg.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Frames a second of raw frames and of pictures; 25.")] = None,
    allow_8bit: Annotated[bool, typer.Option("--allow-8bit", help="Take HDR, and write it with 8 bits.")] = False,
    odd: Annotated[
        Literal["pad", "444"], typer.Option(help="An odd size in a codec of even ones: padded, or kept in 4:4:4.")
    ] = "pad",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and leave everything as it is.")
    ] = False,
    threads: Threads = None,
    no_gating: Annotated[bool, typer.Option("--no-gating", help="Run both branches on every frame.")] = False,
    tile: Annotated[
        str, typer.Option(help="Frames too large for the memory run in tiles: auto, off, or WIDTHxHEIGHT (CPU).")
    ] = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Sharpen a video, a picture or a folder of both."""
    from crispstream import files

    if target == "-":
        from crispstream.sinks.raw import claim_standard_output

        claim_standard_output()  # the summary, too, goes to standard error
    progress = not quiet and not as_json
    options: dict[str, Any] = {
        "preset": preset,
        "device": device,
        "strength": strength,
        "backend": engine_backend,
        "gating": not no_gating,
        "tile": tile,
        "threads": threads,
    }
    settings: dict[str, Any] = {
        "encoder": encoder,
        "crf": crf,
        "speed": speed,
        "quality": quality,
        "start": start,
        "end": end,
        "allow_8bit": allow_8bit,
        "odd": odd,
    }
    raw: dict[str, Any] = {
        "size": None if size is None else frame_size(size),
        "pixel_format": pixel_format,
        "rate": None if rate is None else frame_rate(rate),
    }
    if source != "-" and os.path.isdir(source):  # False, too, for a name that is too long
        from crispstream import jobs

        if any(value is not None for value in raw.values()):
            raise UsageError("--size, --pixel-format and --rate are not for folders", "give a pattern: 'in/*.png'")

        job = jobs.FolderJob(Path(source), Path(target), settings, options, overwrite)
        if dry_run:
            return _folder_plan(job)
        return _folder_report(job.run(progress), quiet)
    if dry_run:
        from crispstream.dry_run import dry_run as look

        return _plan(look(source, target, {**raw, **settings}, options, overwrite))
    report = files.run(source, target, overwrite=overwrite, progress=progress, **raw, **settings, **options)
    lines = [_summary(report), *_remarks(report)]
    if report.interrupted:
        lines.append("interrupted: " + ("the output ends here" if report.frames else "nothing was written"))
    code = INTERRUPTED if report.interrupted else InputError.exit_code if report.failed else 0
    return Report(report.to_dict(), "" if quiet else "\n".join(lines), code)


def _summary(report: RunReport) -> str:
    return f"{report.output}: {report.frames} frames, {report.width}x{report.height}, {report.fps:.1f} fps"


def _remarks(report: RunReport) -> list[str]:
    lines = [f"warning: {warning}" for warning in report.warnings]
    lines += [f"left out: {stream}" for stream in report.skipped]
    return lines + [f"failed: {name}: {reason}" for name, reason in report.failed]


def _plan(found: DryRun) -> Report:
    rate = f" at {found.rate:.4g} frames a second" if found.rate is not None else ""
    count = "" if found.frames is None else f", {found.frames} frame{'s' * (found.frames != 1)}"
    length = "" if found.seconds is None else f" ({found.seconds:.2f} s)"
    lines = [
        f"would read   {found.input}: {found.width}x{found.height}{rate}{count}{length}",
        f"would use    {found.preset} on {found.engine}",
        f"would write  {found.output}: {found.encoder}{', replacing what is there' * found.replaces}",
        *(f"would copy   {stream}" for stream in found.copied),
        *(f"would leave  {stream}" for stream in found.skipped),
        *(f"warning: {warning}" for warning in found.warnings),
    ]
    return Report(found.to_dict(), "\n".join(lines))


_WOULD = {
    "new": "would make    {}",
    "changed": "would remake  {}: its input or the settings have changed",
    "replaced": "would replace {}: it is not from this job",
    "unchanged": "would keep    {}: finished before",
    "refused": "would refuse  {}: it exists and is not from this job (use --overwrite to replace it)",
    "unreadable": "would fail    {}: its input may not be read",
}


def _folder_plan(job: FolderJob) -> Report:
    tasks = job.plan()
    files = [{"input": str(task.source), "output": str(task.target), "state": task.state} for task in tasks]
    lines = [_WOULD[task.state].format(task.target) for task in tasks]
    return Report({"dry_run": True, "files": files}, "\n".join(lines))


def _folder_report(report: JobReport, quiet: bool) -> Report:
    lines = [f"{Path(one.input).name}: {line}" for one in report.files for line in _remarks(one)]
    lines += [f"failed: {name}: {reason}" for name, reason in report.failed]
    done, kept, failed = (len(items) for items in (report.files, report.unchanged, report.failed))
    lines.append(f"{report.output}: {done} done, {kept} finished before, {failed} failed, {report.seconds:.1f} s")
    if report.interrupted:
        lines.append("interrupted: the same command goes on from here")
    code = INTERRUPTED if report.interrupted else report.exit_code
    return Report(report.to_dict(), "" if quiet else "\n".join(lines), code)
