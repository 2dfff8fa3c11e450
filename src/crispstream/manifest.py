# SPDX-License-Identifier: Apache-2.0
"""What an engine is: ``manifest.json`` beside its graphs. The only thing toolchain and runtime share.

Read and checked, hashes included, before an inference library sees a byte. ``docs/manifest.md`` explains every field.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from crispstream.errors import EngineError, OutputError
from crispstream.model.presets import PRESETS, Preset, preset
from crispstream.model.receptive import receptive_radius

SCHEMA = 2
FILE_NAME = "manifest.json"
PARTS = ("encoder", "foreground", "background")
FACTORS = {"foreground": "foreground_factors", "background": "background_factors"}
"""Graphs of the branches without their last step, which ``kernels.bindings.residual`` takes on the CPU. Presets with
blocks between the product and the last convolution have none."""
DTYPES = ("float32", "float16")
NO_FIELD = (KeyError, TypeError, ValueError, OverflowError)
"""What reading the fields of a JSON file raises where one is not what it should be."""
TENSORS = ("packed", "features0", "features1", "features2", "head", "residual")
_LONGEST = 500
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class File:
    """A file of the engine's folder and what its bytes must hash to."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A network tensor. A dimension is a number, or ``height_N`` / ``width_N``: the padded size divided by N."""

    shape: tuple[int | str, ...]
    dtype: str
    layout: str

    def sizes(self, padded_width: int, padded_height: int) -> tuple[int, ...]:
        """The shape for a padded frame of that many pixels."""
        pixels = {"width": padded_width, "height": padded_height}
        named = [d.partition("_") for d in self.shape if isinstance(d, str)]
        values = {f"{axis}_{step}": pixels[axis] // int(step) for axis, _, step in named}
        return tuple(values[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One engine: its files, tensors and figures. ``folder`` is where it was read from."""

    folder: Path
    preset: str
    graphs: dict[str, File]
    weights: File
    tensors: dict[str, Tensor]
    pack: int
    multiple: int
    map_stride: int
    receptive_radius: int
    color: str
    head: tuple[str, ...]
    macs_per_pixel: dict[str, float]
    parameters: int
    training: dict[str, Any]
    quality: dict[str, Any]
    parity: dict[str, Any]

    def path(self, graph: str) -> Path:
        """The file of one of ``graph_names``."""
        return self.folder / self.graphs[graph].file

    @property
    def part_hashes(self) -> dict[str, str]:
        """SHA-256 of the graphs of PARTS, which other forms of the engine are made from."""
        return {part: self.graphs[part].sha256 for part in PARTS}

    @property
    def weights_path(self) -> Path:
        """The safetensors file that the graphs' initialisers point into."""
        return self.folder / self.weights.file

    @property
    def argument(self) -> str:
        """What commands take for it: the name of a shipped preset, else the folder."""
        return self.preset if self.folder == _shipped() / self.preset else shlex.quote(str(self.folder))

    def summary(self) -> dict[str, Any]:
        """What a person wants to know about the engine; plain values."""
        return {
            "folder": str(self.folder),
            "parameters": self.parameters,
            "macs_per_pixel": {**self.macs_per_pixel, "all": sum(self.macs_per_pixel.values())},
            "parts": list(PARTS),
            "training": self.training,
            "quality": self.quality,
            "parity": self.parity,
        }

    def write(self) -> None:
        """Write ``manifest.json`` into ``folder``, whole or not at all. Raises OutputError."""
        fields = asdict(self)
        del fields["folder"]
        text = json.dumps({"schema": SCHEMA, **fields}, indent=2, allow_nan=False)
        partial = self.folder / f"{FILE_NAME}.partial"
        try:
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(self.folder / FILE_NAME)
        except OSError as error:
            raise OutputError(f"cannot write {self.folder / FILE_NAME}: {error.strerror}") from error


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def graph_names(size: Preset) -> tuple[str, ...]:
    """The graphs that an engine folder of a preset holds."""
    return (*PARTS, *FACTORS.values()) if size.ends_in_product else PARTS


def available_presets() -> list[str]:
    """Presets whose engine is installed, smallest first."""
    return [name for name in PRESETS if (_shipped() / name / FILE_NAME).is_file()]


def load(engine: str | Path) -> Manifest:
    """Manifest of an installed preset, or of a folder; every file it names is there, whole and finite.

    Raises UsageError for a name that is no preset, EngineError for everything wrong with the engine.
    """
    folder = _folder(engine)
    manifest = _parse(folder)
    for file in manifest.graphs.values():
        _read(manifest, file)
    _check_weights(manifest, _read(manifest, manifest.weights))
    return manifest


def _shipped() -> Path:
    return Path(str(resources.files("crispstream") / "engines"))


def _folder(engine: str | Path) -> Path:
    if isinstance(engine, Path) or os.sep in engine or engine in (".", ".."):
        return Path(engine)
    preset(engine)
    if not (_shipped() / engine).is_dir():
        shipped = ", ".join(available_presets()) or "none"
        message = f"preset '{engine}' is known, but its weights are not shipped yet; shipped: {shipped}"
        raise EngineError(message, "name one that is shipped, or a folder that holds your own engine")
    return _shipped() / engine


def _rebuild(name: str, folder: Path) -> str:
    command = f"python -m crispstream.export {name} --weights WEIGHTS.safetensors --output {folder}"
    return f"restore the folder (install crispstream again), or rebuild it: {command}"


def read_json(path: Path, hint: str) -> Any:
    """What a JSON file holds; NaN and infinities are damage. Raises EngineError with ``hint``."""

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is not a number")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constant)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, error, hint) from None


def damaged(path: Path, error: Exception, hint: str) -> EngineError:
    """What is said of a JSON file that ``error`` was found in."""
    what = f"has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return EngineError(f"{path} is damaged: {what[:_SHOWN]}", hint)


def check_schema(path: Path, fields: Any, wanted: int, hint: str) -> None:
    """Raise EngineError where a JSON file is no object of that ``schema``."""
    found = fields.get("schema") if isinstance(fields, dict) else None
    if type(found) is not int or found != wanted:
        shown = type(found).__name__ if isinstance(found, (list, dict)) else repr(found)[:_SHOWN]
        raise EngineError(f"{path} has schema {shown}, this version reads {wanted}", hint)


def _parse(folder: Path) -> Manifest:
    path = folder / FILE_NAME
    hint = _rebuild(folder.name if folder.name in PRESETS else "PRESET", folder)
    fields = read_json(path, hint)
    check_schema(path, fields, SCHEMA, hint)
    try:
        return _manifest(folder, fields)
    except NO_FIELD as error:
        raise damaged(path, error, hint) from None


def one_field(fields: dict[str, Any], name: str, kind: type) -> Any:
    """The field of that name. Raises KeyError where there is none, TypeError where it is not of that ``kind``, and
    ValueError for a text that could not be shown in a message."""
    value = fields[name]
    if type(value) is not kind:
        raise TypeError(f"'{name}' is not {kind.__name__}")
    if isinstance(value, str) and not (len(value) <= _LONGEST and value.isprintable()):
        raise ValueError(f"'{name}' is no short plain text")
    return value


def file_field(entry: dict[str, Any]) -> File:
    """A file of the manifest's own folder, with its hash. Raises KeyError, TypeError, ValueError for a path."""
    name, digest = one_field(entry, "file", str), one_field(entry, "sha256", str)
    if Path(name).name != name:
        raise ValueError(f"'{name}' is not a file name")
    return File(name, digest)


def _manifest(folder: Path, fields: dict[str, Any]) -> Manifest:
    def one(name: str, kind: type, within: dict[str, Any] = fields) -> Any:
        return one_field(within, name, kind)

    def tensor(entry: dict[str, Any]) -> Tensor:
        return Tensor(tuple(one("shape", list, entry)), one("dtype", str, entry), one("layout", str, entry))

    whole = ("pack", "multiple", "map_stride", "parameters", "receptive_radius")
    numbers = {name: one(name, int) for name in whole}
    if min(numbers.values()) < 1 or any(numbers["multiple"] % numbers[name] for name in ("pack", "map_stride")):
        raise ValueError(f"{numbers} do not fit together")
    if one("preset", str) not in PRESETS:
        raise ValueError(f"unknown preset '{fields['preset']}'")
    if (radius := receptive_radius(PRESETS[fields["preset"]])) != numbers["receptive_radius"]:
        found = numbers["receptive_radius"]
        raise ValueError(f"'receptive_radius' is {found}, {fields['preset']} sees {radius} pixels far")
    graphs, named = one("graphs", dict), one("tensors", dict)
    tensors = {name: tensor(one(name, dict, named)) for name in TENSORS}
    _check_tensors(tensors, **numbers)
    return Manifest(
        folder=folder,
        preset=fields["preset"],
        graphs={name: file_field(one(name, dict, graphs)) for name in graph_names(PRESETS[fields["preset"]])},
        weights=file_field(one("weights", dict)),
        tensors=tensors,
        **numbers,
        color=one("color", str),
        head=tuple(one("head", list)),
        macs_per_pixel=_macs(one("macs_per_pixel", dict)),
        **{name: one(name, dict) for name in ("training", "quality", "parity")},
    )


def _check_tensors(tensors: dict[str, Tensor], pack: int, multiple: int, map_stride: int, **_: int) -> None:
    """Of one dtype, sizes that any padded frame has, and at the graphs' ends those that the kernels work with."""
    for name, tensor in tensors.items():
        if len(tensor.shape) != 4:
            raise ValueError(f"'{name}' has {len(tensor.shape)} dimensions, not 4")
        for size in tensor.shape:
            step = re.fullmatch(r"(?:height|width)_([1-9][0-9]*)", size) if isinstance(size, str) else None
            fits = multiple % int(step[1]) == 0 if step else type(size) is int and size > 0
            if not fits:
                raise ValueError(f"'{name}' has the dimension {json.dumps(size)}")
        if tensor.dtype not in DTYPES or tensor.dtype != tensors["packed"].dtype:
            raise ValueError(f"'{name}' has dtype '{tensor.dtype}', not one of {DTYPES} for all")
    packed = (1, 3 * pack**2, f"height_{pack}", f"width_{pack}")
    head = (1, 2, f"height_{map_stride}", f"width_{map_stride}")
    for name, shape in (("packed", packed), ("residual", packed), ("head", head)):
        if tensors[name].shape != shape:
            raise ValueError(f"'{name}' has shape {tensors[name].shape}, pack and map_stride say {shape}")


def _macs(entry: dict[str, Any]) -> dict[str, float]:
    for part in PARTS:
        if type(entry[part]) not in (int, float) or not math.isfinite(entry[part]):
            raise ValueError(f"'macs_per_pixel' has {json.dumps(entry[part])} for '{part}'")
    return {part: float(entry[part]) for part in PARTS}


def _read(manifest: Manifest, file: File) -> bytes:
    path = manifest.folder / file.file
    hint = _rebuild(manifest.preset, manifest.folder)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", hint) from None
    if (found := sha256(data)) != file.sha256:
        raise EngineError(f"{path} has sha256 {found[:16]}..., its manifest says {file.sha256[:16]}...", hint)
    return data


def _check_weights(manifest: Manifest, data: bytes) -> None:
    """Finite, and as many as the manifest says. A NaN would only show as a picture that never gets sharper."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    path, hint = manifest.weights_path, _rebuild(manifest.preset, manifest.folder)
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that NumPy does not have
        raise EngineError(f"{path} is damaged: {error}", hint) from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise EngineError(f"weight {name} in {path} is not finite", hint)
    if (found := sum(t.size for t in tensors.values())) != manifest.parameters:
        raise EngineError(f"{path} holds {found} parameters, its manifest says {manifest.parameters}", hint)
