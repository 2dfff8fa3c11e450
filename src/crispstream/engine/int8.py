# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU in INT8, with the graphs that ``crispstream build`` left in the cache."""

from __future__ import annotations

from typing import Any

from crispstream.engine.onnxruntime import OnnxRuntimeEngine, open_graph
from crispstream.engine.protocol import PaddedSize
from crispstream.manifest import Manifest
from crispstream.quantised import BACKEND, Quantised, runtime_manifest


class Int8Engine(OnnxRuntimeEngine):
    """``graphs``: those of ``manifest``, as ``quantised.load`` finds them. Their weights are inside."""

    name = BACKEND

    def __init__(self, manifest: Manifest, graphs: Quantised, threads: int | None = None) -> None:
        self._graphs = graphs
        super().__init__(runtime_manifest(manifest), threads)

    def _open_part(self, part: str, size: PaddedSize) -> Any:
        return open_graph(self._graphs.path(part), self.manifest, size, self.threads)
