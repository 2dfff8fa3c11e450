# SPDX-License-Identifier: Apache-2.0
"""Weights in, engine folder out: weights.safetensors, graphs, manifest.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from crispstream import manifest
from crispstream.errors import OutputError
from crispstream.manifest import File, Manifest, Tensor
from crispstream.model.presets import Preset
from crispstream.model.receptive import receptive_radius
from crispstream.model.weights import load_network

from .graph import build_graph, tensor_shapes
from .half import to_half
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
    precision: Literal["float32", "float16"] = "float32",
) -> Manifest:
    """Make the engine folder ``output`` of preset ``size`` from FP16 safetensors; overwrites what is there.

    ``training`` and ``quality`` go into the manifest as they are; ``parity`` stays empty until ``verify`` has run.
    ``precision`` is that of every tensor and convolution; the weights are the same FP16 file either way.
    Raises EngineError for weights that are damaged, of another preset or not FP16, OutputError for the folder.
    """
    load_network(size, weights)  # whole, finite and of this preset
    stored = read_weights(weights)
    models = {part: build_graph(size, stored, part, WEIGHTS_FILE) for part in manifest.graph_names(size)}
    if precision == "float16":
        for model in models.values():
            to_half(model)
    graphs = {part: model.SerializeToString() for part, model in models.items()}
    made = Manifest(
        folder=output,
        preset=size.name,
        graphs={part: File(f"{part}.onnx", manifest.sha256(data)) for part, data in graphs.items()},
        weights=File(WEIGHTS_FILE, manifest.sha256(weights.read_bytes())),
        tensors={name: Tensor(shape, precision, "NCHW") for name, shape in tensor_shapes(size).items()},
        pack=size.pack,
        multiple=size.multiple,
        map_stride=size.map_stride,
        receptive_radius=receptive_radius(size),
        color=COLOR,
        head=HEAD,
        macs_per_pixel=size.macs_per_pixel(),
        parameters=sum(tensor.value.size for tensor in stored.values()),
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
