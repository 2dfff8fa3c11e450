# SPDX-License-Identifier: Apache-2.0
"""Weights in, engine folder out: weights.safetensors, three graphs, manifest.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx

from crispstream import manifest
from crispstream.errors import EngineError, OutputError
from crispstream.manifest import File, Manifest, Tensor
from crispstream.model.presets import Preset, preset
from crispstream.model.weights import load_network

from .graph import Precision, build_graph, tensor_shapes
from .weights import read_weights

WEIGHTS_FILE = "weights.safetensors"
COLOR = (
    "non-linear R'G'B' in [0, 1], full range, in the frame's own transfer; packed channel = c s^2 + dy s + dx "
    "(c: R, G, B; dy, dx: position in the s x s cell); padded on the right and at the bottom by edge replication"
)
HEAD = ("person mask: 1 where foreground applies", "blur gate: 0 leaves the pixel as it is")


def build(
    size: Preset,
    weights: Path,
    output: Path,
    training: dict[str, Any] | None = None,
    quality: dict[str, Any] | None = None,
) -> Manifest:
    """Make the engine folder ``output`` of preset ``size`` from FP16 safetensors; overwrites what is there.

    ``training`` and ``quality`` go into the manifest as they are; ``parity`` stays empty until ``verify`` has run.
    Raises EngineError for weights that are damaged, of another preset or not FP16, OutputError for the folder.
    """
    graphs = {part: model.SerializeToString() for part, model in build_graphs(size, weights).items()}
    dtype = "float32"
    made = Manifest(
        folder=output,
        preset=size.name,
        graphs={part: File(f"{part}.onnx", manifest.sha256(data)) for part, data in graphs.items()},
        weights=File(WEIGHTS_FILE, manifest.sha256(weights.read_bytes())),
        tensors={name: Tensor(shape, dtype, "NCHW") for name, shape in tensor_shapes(size).items()},
        pack=size.pack,
        multiple=size.multiple,
        map_stride=size.map_stride,
        color=COLOR,
        head=HEAD,
        macs_per_pixel=size.macs_per_pixel(),
        parameters=sum(stored.value.size for stored in read_weights(weights).values()),
        training=training or {},
        quality=quality or {},
        parity={},
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        if weights.resolve() != made.weights_path.resolve():
            made.weights_path.write_bytes(weights.read_bytes())
        for part, data in graphs.items():
            made.path(part).write_bytes(data)
        made.write()
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error
    return manifest.load(output)


def build_graphs(size: Preset, weights: Path, precision: Precision = "float32") -> dict[str, onnx.ModelProto]:
    """The three part graphs, their initialisers pointing into ``WEIGHTS_FILE`` beside them. Raises EngineError."""
    net = load_network(size, weights)
    stored = read_weights(weights)
    return {part: build_graph(net, stored, part, precision, WEIGHTS_FILE) for part in manifest.PARTS}


def fused_graph(engine: Manifest) -> Path:
    """One graph, packed -> head, foreground, background, in the user's cache. Raises EngineError, OutputError."""
    net = load_network(preset(engine.preset), engine.weights_path)
    data = build_graph(net, read_weights(engine.weights_path), "fused").SerializeToString()
    path = cache_folder() / f"{engine.preset}-{engine.weights.sha256[:16]}-fused.onnx"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", "set XDG_CACHE_HOME") from error
    return path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/crispstream`` (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crispstream"


def check_graph(path: Path) -> None:
    """Raise EngineError where the ONNX checker finds fault with the graph or its shapes."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"{path}: {error}") from error
