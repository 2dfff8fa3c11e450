# SPDX-License-Identifier: Apache-2.0
"""What kind of source or sink a text on the command line names, and which options mean something to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from crispstream.live.addresses import scheme

STANDARD = "-"
WINDOW = "window"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")

_CONNECTED = {"camera", "rtsp", "stream", "pipeline", "push"}
_SERVES = {
    "--size": ("cameras and raw frames on standard input", {"camera", "input"}),
    "--rate": (
        "cameras, raw frames, films, pushed streams and standard output",
        {"camera", "raw input", "film", "push", "output"},
    ),
    "--camera-format": ("cameras", {"camera"}),
    "--pixel-format": ("raw frames on standard input, with --size, and on standard output", {"raw input", "output"}),
    "--transport": ("rtsp:// sources", {"rtsp"}),
    "--loop": ("files as sources", {"file"}),
    "--open-timeout": ("sources that are no files, and pushed streams", {*_CONNECTED, "input"}),
    "--read-timeout": ("cameras, streams, pipelines, and pushed streams", _CONNECTED),
    "--segment": ("films", {"film"}),
    "--encoder": ("films and pushed streams", {"film", "push"}),
    "--crf": ("films", {"film"}),
    "--speed": ("films", {"film"}),
    "--bitrate": ("pushed streams", {"push"}),
    "--snapshot-every": ("pictures as targets", {"picture"}),
    "--overwrite": ("films and pictures as targets", {"film", "picture"}),
}


def source_kind(text: str) -> str:
    """input, camera, rtsp, stream (another URL), pipeline, or file."""
    if text == STANDARD:
        return "input"
    if re.fullmatch(r"\d{1,3}|/dev/.+", text):
        return "camera"
    if (found := scheme(text)) is not None:
        return "rtsp" if found in ("rtsp", "rtsps") else "stream"
    return "pipeline" if re.search(r"\s!\s", text) else "file"


def sink_kind(text: str) -> str:
    """output, window, push, picture, or film."""
    if text in (STANDARD, WINDOW):
        return "output" if text == STANDARD else "window"
    if scheme(text) is not None:
        return "push"
    return "picture" if Path(text).suffix.lower() in _PICTURES else "film"


def idle(given: Collection[str], source: str, targets: Collection[str]) -> Iterator[str]:
    """A line for each of the options ``given`` (``--size``, ...) that neither this source nor any of the targets heeds.

    Options that are not known here concern neither.
    """
    kinds = {source_kind(source), *(sink_kind(target) for target in targets)}
    if "input" in kinds and "--size" in given:
        kinds.add("raw input")
    for option in given:
        words, heeding = _SERVES.get(option, ("", kinds))
        if not kinds & heeding:
            yield f"{option} does nothing here: it is for {words}"
