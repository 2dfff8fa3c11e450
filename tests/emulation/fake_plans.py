# SPDX-License-Identifier: Apache-2.0
"""Plans of an engine for the fake TensorRT, in the user's cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from emulation.fake_pycuda import FakeGpu
from emulation.fake_tensorrt import fake_plan
from onnx import ModelProto

from crispstream.engine.tensorrt import FEATURES, TENSORS_OF
from crispstream.export.half import half_graph
from crispstream.manifest import PARTS, Manifest, sha256
from crispstream.plan import Flavour, Gpu, PartPlan, Plan, Profile, folder_for

VERSION = {"tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1.116"}


def store(
    engine: Manifest,
    profile: Profile,
    flavour: Flavour = "tensorrt",
    layout: str = "HWC8",
    built_for: FakeGpu | None = None,
    change: Callable[[str, ModelProto], None] | None = None,
    **changes: Any,
) -> Plan:
    """A plan set for an emulated GPU whose driver speaks CUDA 13.0. ``layout`` of the features between parts.

    ``change`` sees every graph before it becomes a plan; ``changes`` are fields of the set that are to be wrong.
    """
    gpu = built_for or FakeGpu()
    facts = Gpu(gpu.name, gpu.compute_capability, gpu.multiprocessors, 13000)
    layouts = dict.fromkeys(FEATURES, layout)
    tensors = {n: replace(t, dtype="float16", layout=layouts.get(n, "LINEAR")) for n, t in engine.tensors.items()}
    blobs = {}
    for part in PARTS:
        model = half_graph(engine, part)
        if change is not None:
            change(part, model)
        formats = {name: tensors[name].layout for name in TENSORS_OF[part]}
        blobs[part] = fake_plan(model.SerializeToString(), formats, [facts.capability])
    plan = Plan(
        folder=Path(),
        preset=engine.preset,
        weights=engine.weights.sha256,
        graphs=engine.part_hashes,
        flavour=flavour,
        version=VERSION[flavour],
        gpu=facts if flavour == "tensorrt" else None,
        capabilities=(facts.capability,),
        precision="float16",
        profile=profile,
        tensors=tensors,
        flags=(),
        parts={p: PartPlan(f"{p}-{sha256(b)[:16]}.plan", sha256(b), 1 << 30, 1.5) for p, b in blobs.items()},
    )
    plan = replace(plan, **changes)
    target = plan.gpu or plan.capabilities
    plan = replace(plan, folder=folder_for(engine, flavour, plan.version, target, profile))
    plan.write(blobs)
    return plan
