# SPDX-License-Identifier: Apache-2.0
"""FP16 graphs to TensorRT plans: one plan a part, one after another, stored in the user's cache as a whole."""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from time import perf_counter
from typing import Any

from crispstream.cache import unwritable
from crispstream.engine.tensorrt import FEATURES, Library
from crispstream.errors import EngineError
from crispstream.manifest import PARTS, Manifest, Tensor, sha256
from crispstream.plan import FILE_NAME, Gpu, PartPlan, Plan, Profile, folder_for, load, plans_folder

from . import network as networks
from .half import half_graph
from .progress import Display, make_monitor

WORKSPACE = 4 << 30
SMALLEST_WORKSPACE = 64 << 20
"""Bytes that TensorRT may use for intermediate results: half of what is free, within these."""
LAYOUTS = ("HWC8", "LINEAR")
"""Formats for the features between parts, best first. TensorRT-RTX 1.4 cannot compile the branches with the first."""
FLAGS = ("STRONGLY_TYPED", "PROFILING_DETAILED")

_TYPE_FIELDS = ("format/datatype", "datatype", "type")
"""Of a tensor until TensorRT 10, since 11 (beside "format"), and of weights; versions differ in the case of letters."""
_NO_MEMORY = re.compile(r"out ?of ?memory|could not be allocated|insufficient (?:workspace|memory)", re.IGNORECASE)
_logger = logging.getLogger("crispstream")


class _RefusedError(Exception):
    """TensorRT cannot build with this format, for a reason other than memory."""


@dataclass
class Build:
    """Builds the plans of ``engine`` with ``library`` for ``target``: the GPU that is here, or, for TensorRT-RTX,
    compute capabilities such as "sm89".

    ``free``: bytes of GPU memory that are free, None where there is no GPU. ``stop`` ends a build that is under way.
    """

    engine: Manifest
    library: Library
    target: Gpu | tuple[str, ...]
    free: int | None
    display: Display
    stop: Event = field(default_factory=Event)

    def run(self, profile: Profile) -> tuple[Plan, bool]:
        """The plans for ``profile``, and whether they were there already, whole and from the same files.

        Raises EngineError, or OutputError where the cache cannot be written. A failed build leaves nothing behind.
        """
        folder = folder_for(self.engine, self.library.flavour, self.library.version, self.target, profile)
        wanted = self._plan(folder, profile, LAYOUTS[0], {})
        if (found := _whole(folder)) and _inputs(found) == _inputs(wanted):
            return found, True
        _check_writable(folder)
        try:
            for layout in LAYOUTS:
                try:
                    plans, parts = self._build_parts(profile, layout)
                    break
                except _RefusedError as error:
                    if layout == LAYOUTS[-1]:
                        raise EngineError(str(error)) from error
                    _logger.warning("%s cannot keep features in %s; building with %s", self.library, *LAYOUTS)
                    _logger.debug("%s", error)
            plan = self._plan(folder, profile, layout, parts)
            plan.write(plans)
        finally:
            with suppress(OSError):
                folder.rmdir()  # where nothing came of it
        return plan, False

    def _plan(self, folder: Path, profile: Profile, layout: str, parts: dict[str, PartPlan]) -> Plan:
        return Plan(
            folder=folder,
            preset=self.engine.preset,
            weights=self.engine.weights.sha256,
            graphs=self.engine.part_hashes,
            flavour=self.library.flavour,
            version=self.library.version,
            gpu=self.target if isinstance(self.target, Gpu) else None,
            capabilities=self._capabilities,
            precision="float16",
            profile=profile,
            tensors=self._tensors(layout),
            flags=FLAGS,
            parts=parts,
        )

    @property
    def _capabilities(self) -> tuple[str, ...]:
        return (self.target.capability,) if isinstance(self.target, Gpu) else self.target

    def _tensors(self, layout: str) -> dict[str, Tensor]:
        """The kernels read and write what is linear; only parts see the features."""
        layouts = dict.fromkeys(FEATURES, layout)
        return {
            name: replace(tensor, dtype="float16", layout=layouts.get(name, "LINEAR"))
            for name, tensor in self.engine.tensors.items()
        }

    def _build_parts(self, profile: Profile, layout: str) -> tuple[dict[str, bytes], dict[str, PartPlan]]:
        """One after another: on a Jetson the memory for two is not there."""
        plans, parts = dict[str, bytes](), dict[str, PartPlan]()
        for part in PARTS:
            self.display.begin(f"{self.engine.preset} {profile} {part}")
            start = perf_counter()
            plans[part], workspace = self._build_part(part, profile, layout)
            digest = sha256(plans[part])
            seconds = round(perf_counter() - start, 3)
            parts[part] = PartPlan(f"{part}-{digest[:16]}.plan", digest, workspace, seconds)
            self.display.show(1.0)
        return plans, parts

    def _build_part(self, part: str, profile: Profile, layout: str) -> tuple[bytes, int]:
        """The plan and the workspace that it was allowed; with less workspace where memory runs out."""
        model = half_graph(self.engine, part)
        convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
        workspace = max(SMALLEST_WORKSPACE, min(WORKSPACE, WORKSPACE if self.free is None else self.free // 2))
        while True:
            found = networks.parse(self.library, model, part)
            networks.check(self.library, found, self.engine, convolutions)
            networks.set_formats(self.library, found, self._tensors(layout))
            config = self._config(found, profile, workspace)
            self.library.log.take()
            data = found.builder.build_serialized_network(found.network, config)
            if data is not None:
                self._keep_timings(config)
                return self._checked(bytes(data), part), workspace
            said = self.library.log.take()
            if self.stop.is_set():
                raise EngineError("the build was stopped")
            if not _NO_MEMORY.search(said):
                raise _RefusedError(f"{self.library} cannot build {part} with features in {layout}: {said}")
            if workspace // 2 < SMALLEST_WORKSPACE:
                message = (
                    f"{self.library} runs out of memory building {part}, with {workspace >> 20} MiB of workspace too"
                )
                raise EngineError(f"{message}: {said}", "close other programs, add swap, or build a smaller --size")
            workspace //= 2
            _logger.warning("memory ran out; trying again with a workspace of %d MiB", workspace >> 20)

    def _config(self, found: networks.Network, profile: Profile, workspace: int) -> Any:
        trt = self.library.trt
        config = found.builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
        config.progress_monitor = make_monitor(trt, self.display, self.stop)
        networks.set_sizes(found, config, self.engine, profile)
        if self.library.flavour == "tensorrt":
            self._use_timings(config)
        else:
            config.num_compute_capabilities = len(self._capabilities)
            for i, capability in enumerate(self._capabilities):
                known = getattr(trt.ComputeCapability, capability.upper(), None)
                if known is None or not config.set_compute_capability(known, i):
                    raise EngineError(f"{self.library} does not build for {capability}", known_targets(trt))
        return config

    @property
    def _timings(self) -> Path:
        name = f"timings-{self.library.version}-{self.target}".lower()
        return plans_folder() / (re.sub(r"[^\w.]+", "-", name) + ".cache")

    def _use_timings(self, config: Any) -> None:
        """TensorRT measures tactics once and looks them up next time. TensorRT-RTX does not measure."""
        kept = self._timings.read_bytes() if self._timings.exists() else b""
        for timings in (kept, b""):  # empty where what was kept is damaged or another version's
            cache = config.create_timing_cache(timings)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return

    def _keep_timings(self, config: Any) -> None:
        cache = config.get_timing_cache() if self.library.flavour == "tensorrt" else None
        if cache is not None:
            partial = self._timings.with_suffix(".partial")
            with suppress(OSError):  # the next build takes longer
                partial.write_bytes(bytes(cache.serialize()))
                partial.replace(self._timings)

    def _checked(self, data: bytes, part: str) -> bytes:
        """``data``, once its layers have been looked at, which takes a GPU: every convolution must be FP16."""
        if self.free is None:
            return data
        trt = self.library.trt
        runtime = trt.Runtime(self.library.log)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self.library.failure(f"refuses the plan of {part} that it built")
        inspector = engine.create_engine_inspector()
        if wrong := layers_not_half(inspector.get_engine_information(trt.LayerInformationFormat.JSON)):
            raise EngineError(f"{self.library} did not build {part} in FP16: {'; '.join(wrong)}")
        return data


def layers_not_half(information: str) -> list[str]:
    """Convolutions in an inspector's JSON that read, write or hold something other than FP16, as "name: what".

    A layer tells its type, its tensors with format and type and its weights' type. A fused one has the names of all
    that it was, and may read scalars and vectors of its own, which are no feature maps. What has no type is logged.
    """
    try:
        layers = json.loads(information).get("Layers", [])
    except ValueError as error:  # seen with names that are not escaped
        _logger.warning("the layers of the plan cannot be read: %s", error)
        return []
    wrong, untold = list[str](), list[str]()
    for layer in layers:
        if not isinstance(layer, dict):  # a name alone: not detailed
            continue
        name = str(layer.get("Name"))
        if "conv" not in f"{name} {layer.get('LayerType')} {layer.get('ParameterType')}".lower():
            continue
        tensors = [tensor for end in ("Inputs", "Outputs") for tensor in layer.get(end, [])]
        things = [("", tensor) for tensor in tensors if len(tensor.get("Dimensions", [])) == 4]
        weights = layer.get("Weights")
        if isinstance(weights, dict) and weights.get("Count"):
            things.append(("weights ", weights))
        for what, thing in things:
            said, typed = _kind(thing)
            if not re.search("half|fp16", said, re.IGNORECASE):
                (wrong if typed else untold).append(f"{name}: {what}{said}")
    if untold:
        _logger.warning("the plan does not say whether these are FP16: %s", "; ".join(untold))
    return wrong


def _kind(thing: dict[str, Any]) -> tuple[str, bool]:
    """What a tensor or weights say of their format and type, and whether a field of the type is among it."""
    fields = {key.lower(): str(value) for key, value in thing.items()}
    types = [fields[key] for key in _TYPE_FIELDS if key in fields]
    return " ".join([fields["format"], *types] if "format" in fields else types), bool(types)


def known_targets(trt: Any) -> str:
    """The compute capabilities that this library builds for, in words."""
    return "it knows " + ", ".join(sorted(n.lower() for n in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", n)))


def _whole(folder: Path) -> Plan | None:
    """The plans in ``folder``, if there are any and every file is as it was written."""
    if not (folder / FILE_NAME).exists():
        return None
    try:
        plan = load(folder)
        for part in PARTS:
            plan.read(part)
    except EngineError as error:
        _logger.warning("building again: %s", error)
        return None
    return plan


def _inputs(plan: Plan) -> tuple[object, ...]:
    """What makes two builds the same; the format between parts is found out by building."""
    return (plan.weights, plan.graphs, plan.gpu, plan.capabilities, plan.profile, plan.flags)


def _check_writable(folder: Path) -> None:
    """Before the minutes that a build may take, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error
