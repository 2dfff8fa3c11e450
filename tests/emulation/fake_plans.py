# SPDX-License-Identifier: Apache-2.0
"""Plans of shipped presets for the fake TensorRT."""

from __future__ import annotations

from collections.abc import Callable

from emulation.fake_tensorrt import fake_plan
from onnx import ModelProto

from crispstream import plan as plans
from crispstream.engine import tensorrt
from crispstream.export.half import half_graph
from crispstream.manifest import PARTS, Manifest, Tensor, sha256
from crispstream.plan import Gpu, PartPlan, Plan, Profile, Size

VERSION = "10.13.0"


def write_plan(engine: Manifest, gpu: Gpu, size: Size, change: Callable[[str, ModelProto], None] | None = None) -> None:
    """A plan set for one padded size in the cache; ``change`` sees every graph before it becomes a plan."""
    data = {}
    for part in PARTS:
        model = half_graph(engine, part)
        if change is not None:
            change(part, model)
        layouts = {
            value.name: "HWC8" if value.name in tensorrt.FEATURES else "LINEAR"
            for value in (*model.graph.input, *model.graph.output)
        }
        data[part] = fake_plan(model.SerializeToString(), layouts, [gpu.capability])
    profile = Profile(size, size, size)
    tensors = {
        name: Tensor(t.shape, "float16", "HWC8" if name in tensorrt.FEATURES else "LINEAR")
        for name, t in engine.tensors.items()
    }
    made = Plan(
        folder=plans.folder_for(engine, "tensorrt", VERSION, gpu, profile),
        preset=engine.preset,
        weights=engine.weights.sha256,
        graphs={part: graph.sha256 for part, graph in engine.graphs.items()},
        flavour="tensorrt",
        version=VERSION,
        gpu=gpu,
        capabilities=(gpu.capability,),
        precision="float16",
        profile=profile,
        tensors=tensors,
        flags=(),
        parts={part: PartPlan(f"{part}-{sha256(d)[:16]}.plan", sha256(d), 1, 0.1) for part, d in data.items()},
    )
    made.write(data)
