# SPDX-License-Identifier: Apache-2.0
"""`crispstream live`: a camera or a stream, for as long as it runs.

Exit codes: 0 at the end of the source, of ``--duration``, after a signal, and when everybody who looked has gone; 4
where a sink had failed by then (the summary is printed all the same and says which) or cannot be begun; else the
error's own, also where not one frame came (3) or the engine failed on all of them (5).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from typing import Annotated, Any, Literal

import typer

from crispstream.commands.common import (
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
from crispstream.errors import OutputError, UsageError

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TOKEN = "CRISPSTREAM_TOKEN"

_logger = logging.getLogger("crispstream.live")


def seconds(text: str) -> float:
    """Seconds from "10min", "90s", "250ms", "1h" or a plain number. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|min|m|h|)", text)
    if match is None or not float(match[1]) > 0:
        raise UsageError(f"'{text}' is no length of time", "such as 10min, 90s or 250ms")
    return float(match[1]) * _UNITS[match[2]]


def address(text: str) -> tuple[str, int]:
    """Host and port from "8080", "0.0.0.0:8080" or "[::]:8080"; loopback where no host is given. Raises UsageError."""
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:.]+\]|[\w.-]+):)?(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise UsageError(f"'{text}' is no address to listen on", "a port such as 8080, or HOST:PORT")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def from_environment(text: str) -> str:
    """``text``, or for "env:NAME" what that variable holds: other users cannot read it there. Raises UsageError."""
    if not text.startswith("env:"):
        return text
    if text == "env:":
        raise UsageError("env: needs the name of an environment variable", "such as env:CAMERA")
    if not os.environ.get(text[4:]):
        raise UsageError(f"the environment variable {text[4:]} is empty or not set", f"export {text[4:]}=rtsp://...")
    return os.environ[text[4:]]


def live(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Camera number, /dev/video0, URL, GStreamer pipeline, file, env:NAME, or - for raw frames.",
        ),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="Where it goes, as often as you like: film, snapshot (.jpg), URL, window, or - for raw frames.",
        ),
    ] = None,
    preview: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="A page to watch and steer it on, in any browser.")
    ] = None,
    preset: PresetOption = "nano",
    strength: Strength = 1.0,
    engine_backend: Annotated[
        Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-int8", "onnxruntime", "torch"],
        typer.Option(help="Pin one engine."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where the engine runs: auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Threads = None,
    no_gating: Annotated[bool, typer.Option("--no-gating", help="Run both branches on every frame.")] = False,
    max_latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Drop frames that are older when their turn comes: 200ms.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Of a camera or of raw frames, WIDTHxHEIGHT.")] = None,
    rate: Annotated[str | None, typer.Option(help="Frames a second, of a camera and of what is written.")] = None,
    camera_format: Annotated[str | None, typer.Option(help="What a camera shall send: MJPG, YUYV, ...")] = None,
    pixel_format: Annotated[
        str | None, typer.Option(help="Of raw frames, in and out: bgr24, rgb24, nv12, i420; without it yuv4mpeg.")
    ] = None,
    transport: Annotated[Literal["tcp", "udp"], typer.Option(help="Of RTSP.")] = "tcp",
    loop: Annotated[bool, typer.Option("--loop", help="Begin a file again at its end.")] = False,
    open_timeout: Annotated[str, typer.Option(metavar="TIME", help="For the first frame of a connection.")] = "10s",
    read_timeout: Annotated[str, typer.Option(metavar="TIME", help="Between two frames; then reconnect.")] = "5s",
    segment: Annotated[str | None, typer.Option(metavar="TIME", help="A new film every 10min, 1h, ...")] = None,
    encoder: Annotated[str | None, typer.Option(help="Video encoder, such as h264 or hevc.")] = None,
    crf: Annotated[int | None, typer.Option(min=0, help="Quality of films, 0 is best.")] = None,
    speed: Annotated[str, typer.Option(help="Encoder speed of films, ultrafast to veryslow.")] = "veryfast",
    bitrate: Annotated[int | None, typer.Option(min=1, help="Of pushed streams, kilobits a second.")] = None,
    snapshot_every: Annotated[str, typer.Option(metavar="TIME", help="Between two snapshots.")] = "10s",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing films and pictures.")] = False,
    duration: Annotated[str | None, typer.Option(metavar="TIME", help="Stop after so long.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Sharpen a live stream: NEWEST frames first, every drop counted, whatever fails tried again.

    Sound is left out. Ctrl-C and SIGTERM finish the films and end with exit code 0. The log goes to standard error.
    """
    from crispstream.live.logs import log_to_stderr
    from crispstream.live.protocol import Timeouts

    targets = [from_environment(target) for target in to or []]
    if not targets and preview is None:
        raise UsageError("the result goes nowhere", "add --to out.mkv, --to window or --preview 8080")
    if targets.count("-") and as_json:
        raise UsageError("--json and --to - both want standard output", "leave one of them out")
    at = None if preview is None else address(preview)
    limit, until = (None if text is None else seconds(text) for text in (max_latency, duration))
    log_to_stderr(log_json, logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    timeouts = Timeouts(seconds(open_timeout), seconds(read_timeout))
    from crispstream.live.kinds import idle
    from crispstream.live.places import SinkWishes, SourceWishes, outlets_of, source_of

    source = from_environment(source)
    frames = None if rate is None else frame_rate(rate)
    if frames == 0:
        raise UsageError("a rate of 0 is no stream", "frames a second, such as 25 or 30000/1001")
    place = source_of(
        source,
        SourceWishes(
            timeouts,
            None if size is None else frame_size(size),
            frames,
            camera_format,
            pixel_format,
            transport,
            loop,
        ),
    )
    wishes = SinkWishes(
        None if segment is None else seconds(segment),
        encoder,
        crf,
        speed,
        None if bitrate is None else 1000 * bitrate,
        seconds(snapshot_every),
        pixel_format=pixel_format,
        overwrite=overwrite,
        rate=frames,
        timeouts=timeouts,
    )
    outlets = outlets_of(targets, wishes, place)
    for line in idle(_given(context), source, targets):
        _logger.warning("%s", line)
    if "-" in targets:
        from crispstream.sinks.raw import claim_standard_output

        claim_standard_output()  # the summary, too, goes to standard error
    if at is not None:
        from crispstream.preview.server import PreviewServer
    from crispstream.live.engine import LiveEngine
    from crispstream.live.service import serve
    from crispstream.live.session import LiveSession

    engine = LiveEngine(
        preset, device=device, strength=strength, backend=engine_backend, gating=not no_gating, threads=threads
    )
    session = LiveSession(place.name, place.make, engine, outlets, timeouts, limit)
    page = None
    if at is not None:
        page = PreviewServer(session, *at, _token(at[0]))
    summary = serve(session, page, until)
    failed = any(sink["state"] == "failed" for sink in summary["sinks"])
    return Report(summary, "" if quiet else _text(summary), OutputError.exit_code if failed else 0)


def _given(context: typer.Context) -> list[str]:
    """The options on the command line, by their long names."""
    sources = {p.opts[0]: context.get_parameter_source(p.name or "") for p in context.command.params}
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _token(host: str) -> str | None:
    """What a page that others can reach asks for; made up, and shown once, where the environment has none."""
    from crispstream.preview.security import is_loopback

    token = os.environ.get(_TOKEN)
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
        # Not through the log, which may be kept and read by others.
        typer.echo(f"crispstream: the preview asks for this token ({_TOKEN} sets another): {token}", err=True)
    return token


def _text(summary: dict[str, Any]) -> str:
    frames, drops, latency = summary["frames"], summary["drops"], summary["latency_ms"]
    dropped = ", ".join(f"{count} {cause}" for cause, count in drops.items() if count) or "none dropped"
    lines = [f"{frames['in']} frames in, {frames['out']} out, {dropped}"]
    if latency["p50"] is not None:
        lines.append(f"latency p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms, max {latency['max']:.0f} ms")
    for sink in summary["sinks"]:
        error = f": {sink['error']}" if sink["error"] else ""
        lines.append(f"{sink['name']}: {sink['frames']} frames, {sink['dropped']} dropped{error}")
    return "\n".join(lines)
