# SPDX-License-Identifier: Apache-2.0
"""``crispstream verify --device cuda`` on an emulated GPU, whose TensorRT computes as plain FP16 in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from emulation.fake_pycuda import Machine
from onnx import ModelProto, numpy_helper

from crispstream.errors import EngineError
from crispstream.export.verify_gpu import verify_gpu

OpenGpu = Callable[..., Machine]


def test_figures_of_what_opens_and_reasons_for_the_rest(open_gpu: OpenGpu) -> None:
    open_gpu()
    figures = verify_gpu("nano", "cuda", (61, 43))
    assert 0 < figures["plain"] < 2
    assert 0 < figures["tensorrt"]["max"] <= 2 * figures["plain"] + 1
    assert figures["tensorrt"]["non_finite"] == 0 and figures["tensorrt"]["share"] < 0.05
    assert "finds no CUDA device" in figures["torch"]["absent"]


def test_a_wrong_plan_is_found(open_gpu: OpenGpu) -> None:
    def weaken(part: str, model: ModelProto) -> None:
        if part != "encoder":
            (tensor,) = [t for t in model.graph.initializer if t.name.endswith("out.weight")]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(-4), tensor.name))

    open_gpu(change=weaken)
    with pytest.raises(EngineError, match=r"more than FP16 explains .* tensorrt: "):
        verify_gpu("nano", "cuda", (61, 43))


def test_nothing_opens(open_gpu: OpenGpu) -> None:
    open_gpu()
    with pytest.raises(EngineError, match=r"no engine opens nano on cuda: .*112x96"):
        verify_gpu("nano", "cuda", (100, 90))
