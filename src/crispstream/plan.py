# SPDX-License-Identifier: Apache-2.0
"""TensorRT plans in the user's cache: what each was built from and for, and which one fits.

One folder a plan set, three plans and ``plan.json``, under ``$XDG_CACHE_HOME/crispstream/plans``. The JSON is read and
compared, and a plan hashed, before TensorRT sees a byte of it. ``docs/tensorrt.md`` explains every field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from crispstream.cache import cache_folder, replace_files
from crispstream.errors import EngineError
from crispstream.manifest import (
    NO_FIELD,
    PARTS,
    TENSORS,
    Manifest,
    Tensor,
    check_schema,
    damaged,
    file_field,
    one_field,
    read_json,
    sha256,
)

SCHEMA = 1
"""Goes up when this file's fields change, and when the toolchain makes other plans from the same graphs."""
FILE_NAME = "plan.json"
FORMATS = ("LINEAR", "HWC8")
"""Memory layouts of tensors, as TensorRT calls them: NCHW, and NHWC with channels padded to a multiple of 8."""

Flavour: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
LIBRARY = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
Size: TypeAlias = tuple[int, int]
"""Width and height in pixels; in this file always padded to the preset's multiple."""

REASONS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a plan depends on. ``driver_version`` is the CUDA version that the driver speaks: 12060 is 12.6."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    driver_version: int

    @property
    def capability(self) -> str:
        """As the command line writes it: "sm89"."""
        return "sm{}{}".format(*self.compute_capability)

    def __str__(self) -> str:
        cuda = f"{self.driver_version // 1000}.{self.driver_version % 1000 // 10}"
        return f"{self.name} ({self.capability}, {self.multiprocessors} multiprocessors, driver for CUDA {cuda})"


@dataclass(frozen=True, slots=True)
class Profile:
    """The sizes that a plan takes; all three are equal where it takes one."""

    minimum: Size
    optimum: Size
    maximum: Size

    @property
    def fixed(self) -> bool:
        """Whether the plan takes one size only."""
        return self.minimum == self.maximum

    def includes(self, size: Size) -> bool:
        """Whether the plan takes this size."""
        return all(low <= n <= high for low, n, high in zip(self.minimum, size, self.maximum, strict=True))

    def __str__(self) -> str:
        sizes = (self.optimum,) if self.fixed else (self.minimum, self.optimum, self.maximum)
        return ":".join(map(size_text, sizes))


@dataclass(frozen=True, slots=True)
class PartPlan:
    """The plan of one part: its file, and how it was made (bytes of workspace allowed, seconds taken)."""

    file: str
    sha256: str
    workspace: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The plans of one preset's parts. ``folder`` is where they are.

    ``weights``, ``graphs``: SHA-256 of the files that they were built from. ``gpu``: the one that TensorRT built for,
    None for TensorRT-RTX, whose plans fit every GPU of ``capabilities``. ``tensors``: as in the engine's manifest, but
    with the dtype and format (one of FORMATS) that they have on the GPU. ``flags``: set when building.
    """

    folder: Path
    preset: str
    weights: str
    graphs: dict[str, str]
    flavour: Flavour
    version: str
    gpu: Gpu | None
    capabilities: tuple[str, ...]
    precision: str
    profile: Profile
    tensors: dict[str, Tensor]
    flags: tuple[str, ...]
    parts: dict[str, PartPlan]

    def read(self, part: str) -> bytes:
        """The plan of ``part``, whole. Raises EngineError where its file is missing, cut short or changed."""
        path, wanted = self.folder / self.parts[part].file, self.parts[part].sha256
        try:
            data = path.read_bytes()
        except OSError as error:
            raise EngineError(f"cannot read {path}: {error.strerror}", self._rebuild()) from None
        if (found := sha256(data)) != wanted:
            message = f"{path} is damaged: its sha256 is {found[:16]}..., {FILE_NAME} says {wanted[:16]}..."
            raise EngineError(message, self._rebuild())
        return data

    def write(self, plans: Mapping[str, bytes]) -> None:
        """Store ``plans``, one a part. The set appears, or takes the place of an older one, as a whole.

        Plan files carry their hash in their name, so those of an older set stay whole until ``plan.json`` is replaced.
        Raises OutputError.
        """
        fields = asdict(self)
        del fields["folder"]
        text = json.dumps({"schema": SCHEMA, **fields}, indent=2, allow_nan=False) + "\n"
        files = {self.parts[part].file: data for part, data in plans.items()} | {FILE_NAME: text.encode()}
        replace_files(self.folder, files)

    def mismatch(self, engine: Manifest, flavour: Flavour, version: str, gpu: Gpu) -> str:
        """Why these plans cannot run there, both sides named; "" where they can."""
        if (self.weights, self.graphs) != (engine.weights.sha256, engine.part_hashes):
            there, here = self.weights, engine.weights.sha256
            if there == here:
                return "was built from other graphs than this engine's"
            return f"was built from the weights {there[:16]}..., this engine has {here[:16]}..."
        if (self.flavour, self.version) != (flavour, version):
            there, here = f"{LIBRARY[self.flavour]} {self.version}", f"{LIBRARY[flavour]} {version}"
            return f"was built by {there}, here is {here}"
        fits = gpu.capability in self.capabilities if self.gpu is None else self.gpu == gpu
        return "" if fits else f"was built for {self.gpu or ' and '.join(self.capabilities)}, here is {gpu}"

    def _rebuild(self) -> str:
        return f"remove {self.folder} and build again, as: crispstream build {self.preset} --size WIDTHxHEIGHT"


def plans_folder() -> Path:
    """Where plans are kept."""
    return cache_folder() / "plans"


def folder_for(
    engine: Manifest, flavour: Flavour, version: str, target: Gpu | tuple[str, ...], profile: Profile
) -> Path:
    """Where the plans of ``engine`` belong. ``target``: the GPU, or the capabilities of TensorRT-RTX."""
    where = f"{target.name}-{target.capability}" if isinstance(target, Gpu) else "+".join(target)
    name = f"{flavour}-{version}-{where}-{profile}"
    return _preset_folder(engine) / re.sub(r"[^\w.+]+", "-", name).lower()


def find(engine: Manifest, flavour: Flavour, version: str, gpu: Gpu, size: Size | None = None) -> Plan:
    """The plans that fit ``size`` best: those of that size, else of a range that includes it. None: any size does.

    Raises EngineError that names what is needed, what there is, and the command that builds.
    """
    fitting: list[Plan] = []
    reasons: list[str] = []
    for file in sorted(plans_folder().glob(f"{engine.preset}-*/*/{FILE_NAME}")):
        try:
            plan = load(file.parent)
        except EngineError as error:
            reasons.append(str(error))
            continue
        reason = plan.mismatch(engine, flavour, version, gpu)
        if not reason and size is not None and not plan.profile.includes(size):
            reason = "does not include that size"
        if reason:
            reasons.append(f"the plan for {plan.profile} {reason}")
        else:
            fitting.append(plan)
    if fitting:
        return min(fitting, key=lambda plan: (not plan.profile.fixed, math.prod(plan.profile.maximum)))
    wanted = f" for {size_text(size)}" if size else ""
    shown = reasons[:REASONS_SHOWN] + ["..."] * (len(reasons) > REASONS_SHOWN)
    message = f"no {LIBRARY[flavour]} plan of {engine.preset}{wanted} on {gpu}: "
    raise EngineError(message + ("; ".join(shown) or "none was built"), f"type: {_command(engine, flavour, size)}")


def load(folder: Path) -> Plan:
    """The plan set in ``folder``; its plans are not read yet. Raises EngineError."""
    path = folder / FILE_NAME
    hint = f"remove {folder} and build again: crispstream build --help"
    fields = read_json(path, hint)
    check_schema(path, fields, SCHEMA, hint)
    try:
        return _plan(folder, fields)
    except NO_FIELD as error:
        raise damaged(path, error, hint) from None


def size_text(size: Size) -> str:
    """1280x720"""
    return "{}x{}".format(*size)


def _preset_folder(engine: Manifest) -> Path:
    return plans_folder() / f"{engine.preset}-{engine.weights.sha256[:16]}"


def _command(engine: Manifest, flavour: Flavour, size: Size | None) -> str:
    wanted = size_text(size) if size else "WIDTHxHEIGHT"
    return f"crispstream build {engine.argument} --size {wanted} --backend {flavour}"


def _plan(folder: Path, fields: dict[str, Any]) -> Plan:
    """Raises KeyError, TypeError, ValueError where a field is missing or not what it should be."""

    def one(name: str, kind: type, within: dict[str, Any] = fields) -> Any:
        return one_field(within, name, kind)

    def texts(name: str) -> tuple[str, ...]:
        return tuple(one(name, str, {name: text}) for text in one(name, list))

    def pair(name: str, within: dict[str, Any]) -> tuple[int, int]:
        if [type(n) for n in one(name, list, within)] != [int, int]:
            raise TypeError(f"'{name}' is not two numbers")
        return (within[name][0], within[name][1])

    def tensor(name: str) -> Tensor:
        entry = one(name, dict, one("tensors", dict))
        found = Tensor(tuple(one("shape", list, entry)), one("dtype", str, entry), one("layout", str, entry))
        if found.dtype != "float16" or found.layout not in FORMATS:
            raise ValueError(f"'{name}' is {found.dtype} {found.layout}")
        return found

    def part_plan(entry: dict[str, Any]) -> PartPlan:
        file = file_field(entry)
        return PartPlan(file.file, file.sha256, one("workspace", int, entry), float(one("seconds", float, entry)))

    def gpu(entry: dict[str, Any]) -> Gpu:
        numbers = (one("multiprocessors", int, entry), one("driver_version", int, entry))
        return Gpu(one("name", str, entry), pair("compute_capability", entry), *numbers)

    flavour, parts, profile = one("flavour", str), one("parts", dict), one("profile", dict)
    if flavour not in FLAVOURS:
        raise ValueError(f"unknown flavour '{flavour}'")
    return Plan(
        folder=folder,
        **{name: one(name, str) for name in ("preset", "weights", "flavour", "version", "precision")},
        graphs={part: one(part, str, one("graphs", dict)) for part in PARTS},
        gpu=None if fields["gpu"] is None else gpu(one("gpu", dict)),
        capabilities=texts("capabilities"),
        profile=Profile(*(pair(name, profile) for name in ("minimum", "optimum", "maximum"))),
        tensors={name: tensor(name) for name in TENSORS},
        flags=texts("flags"),
        parts={part: part_plan(one(part, dict, parts)) for part in PARTS},
    )
