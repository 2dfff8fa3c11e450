# SPDX-License-Identifier: Apache-2.0
"""INT8 graphs in the user's cache: what they were made from, what they lose, how fast they are, when they are used.

One folder an engine, three graphs and ``int8.json``, under ``$XDG_CACHE_HOME/crispstream/int8``. The JSON is read and
compared, and a graph hashed, before ONNX Runtime sees a byte of it. ``docs/int8.md`` explains every field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crispstream import cpu
from crispstream.cache import cache_folder, replace_files
from crispstream.errors import EngineError
from crispstream.manifest import (
    NO_FIELD,
    PARTS,
    File,
    Manifest,
    Tensor,
    check_schema,
    damaged,
    file_field,
    one_field,
    read_json,
    sha256,
)

SCHEMA = 2
"""Goes up when this file's fields change, and when the toolchain makes other INT8 graphs from the same weights."""
FILE_NAME = "int8.json"
BACKEND = "onnxruntime-int8"
LARGEST_LOSS = 1 / 3
"""Part of FP32's gain on drawn frames that INT8 may lose and still be used by itself. Graphs from drawn frames lose a
fifth, those from films less, those from a flat picture nearly all."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """The INT8 graphs of one engine, in ``folder``.

    ``weights``: SHA-256 of those that they were made from. ``onnxruntime``, ``cpu``: the library and the processor that
    ``timing`` was measured with. ``calibration``: frames that the ranges come from. ``accuracy``: PSNR against FP32
    on other frames of the same origin; on drawn frames what FP32 gains and what of it is lost. Plain values.
    """

    folder: Path
    preset: str
    weights: str
    parts: dict[str, File]
    onnxruntime: str
    cpu: str
    calibration: dict[str, Any]
    accuracy: dict[str, Any]
    timing: dict[str, Any]

    def path(self, part: str) -> Path:
        """The graph of ``part``, one of PARTS."""
        return self.folder / self.parts[part].file

    def summary(self) -> dict[str, Any]:
        """What a person wants to know; plain values."""
        fields = asdict(self)
        return {name: fields[name] for name in ("cpu", "onnxruntime", "calibration", "accuracy", "timing")}

    def write(self, graphs: Mapping[str, bytes]) -> None:
        """Store ``graphs``, one a part; ``int8.json``, which makes them count, is the last. Raises OutputError."""
        fields = asdict(self)
        del fields["folder"]
        text = json.dumps({"schema": SCHEMA, **fields}, indent=2, allow_nan=False) + "\n"
        files = {self.parts[part].file: data for part, data in graphs.items()} | {FILE_NAME: text.encode()}
        replace_files(self.folder, files)


def part_file(part: str, graph: bytes) -> File:
    """How the graph of ``part`` is called: with its hash, so that an older set stays whole until it is replaced."""
    digest = sha256(graph)
    return File(f"{part}-{digest[:16]}.onnx", digest)


def folder_for(engine: Manifest) -> Path:
    """Where the INT8 graphs of ``engine`` belong."""
    return cache_folder() / "int8" / f"{engine.preset}-{engine.weights.sha256[:16]}"


def runtime_manifest(engine: Manifest) -> Manifest:
    """``engine`` with the tensors that its INT8 graphs have: features are 8-bit codes, channels last."""

    def quantised(tensor: Tensor) -> Tensor:
        n, channels, height, width = tensor.shape
        return Tensor((n, height, width, channels), "uint8", "NHWC")

    features = {name: quantised(t) for name, t in engine.tensors.items() if name.startswith("features")}
    return replace(engine, tensors={**engine.tensors, **features})


def load(engine: Manifest) -> Quantised:
    """The INT8 graphs of ``engine``: made from its weights and whole. Raises EngineError."""
    folder, hint = folder_for(engine), f"type: crispstream build {engine.argument} --backend {BACKEND}"
    if not (folder / FILE_NAME).exists():
        raise EngineError(f"no INT8 graphs of {engine.preset} were built for its weights", hint)
    fields = read_json(folder / FILE_NAME, hint)
    check_schema(folder / FILE_NAME, fields, SCHEMA, hint)
    try:
        made = _quantised(folder, fields)
    except NO_FIELD as error:
        raise damaged(folder / FILE_NAME, error, hint) from None
    if made.weights != engine.weights.sha256:
        message = f"{folder} was made from the weights {made.weights[:16]}..., this engine has another set"
        raise EngineError(message, hint)
    for part in PARTS:
        try:
            digest = sha256(made.path(part).read_bytes())
        except OSError as error:
            raise EngineError(f"cannot read {made.path(part)}: {error.strerror}", hint) from None
        if digest != made.parts[part].sha256:
            message = f"{made.path(part)} is damaged: its sha256 is {digest[:16]}..., {FILE_NAME} says otherwise"
            raise EngineError(message, hint)
    return made


def reason_against(engine: Manifest) -> str:
    """Why INT8 is not used here unless it is asked for; "" where it is: the graphs are there, and with this library on
    this processor they were measured as faster than FP32, and on drawn frames they restore nearly as much. VNNI is not
    asked for: without it they are faster, too."""
    try:
        made = load(engine)
    except EngineError as error:
        return str(error)
    import onnxruntime

    for what, there, here in (
        ("processor", made.cpu, cpu.model()),
        ("ONNX Runtime", made.onnxruntime, onnxruntime.__version__),
    ):
        if there != here:
            return f"the INT8 graphs of {engine.preset} were timed with another {what}: {there}, here is {here}"
    if not made.timing["speedup"] > 1:
        return f"INT8 was measured as {made.timing['speedup']:.2f} times as fast as FP32"
    gain, loss = (made.accuracy[name] for name in ("gain_db", "loss_db"))
    if not loss <= LARGEST_LOSS * gain:
        told = f"INT8 gains {gain - loss:.2f} dB, FP32 {gain:.2f} dB"
        return f"on frames that we draw {told}: calibrate with other frames"
    return ""


def describe(engine: Manifest) -> dict[str, Any]:
    """What is known of the INT8 graphs of ``engine``, or what is wrong with them; plain values."""
    try:
        return {**load(engine).summary(), "reason_against": reason_against(engine)}
    except EngineError as error:
        return {"error": str(error)}


def _quantised(folder: Path, fields: dict[str, Any]) -> Quantised:
    """Raises KeyError, TypeError, ValueError where a field is missing or not what it should be."""

    def one(name: str, kind: type, within: dict[str, Any] = fields) -> Any:
        return one_field(within, name, kind)

    one("speedup", float, one("timing", dict))
    for name in ("gain_db", "loss_db"):
        one(name, float, one("accuracy", dict))
    return Quantised(
        folder,
        **{name: one(name, str) for name in ("preset", "weights", "onnxruntime", "cpu")},
        parts={part: file_field(one(part, dict, one("parts", dict))) for part in PARTS},
        **{name: one(name, dict) for name in ("calibration", "accuracy", "timing")},
    )
