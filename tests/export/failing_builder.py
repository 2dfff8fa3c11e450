# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX with a builder that fails on demand, and the size that tests build for."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from crispstream.engine.tensorrt import Library
from crispstream.export.progress import Display
from crispstream.plan import Profile

SIZE = (320, 192)
FIXED = Profile(SIZE, SIZE, SIZE)


def silent() -> Display:
    """Shows nothing."""
    return Display(io.StringIO(), quiet=True)


class FailingBuilder:
    """TensorRT's builder, which fails ``failures`` times with ``message``; notes the workspaces it was given."""

    def __init__(self, found: Library, failures: int, message: str, act: Callable[[], object] = lambda: None) -> None:
        self.left, self.message, self.act = failures, message, act
        self.workspaces: list[int] = []
        outer, rtx, real = self, found.trt, found.trt.Builder

        class Builder(real):  # type: ignore[misc, valid-type]
            def build_serialized_network(self, network: Any, config: Any) -> Any:
                outer.workspaces.append(config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE))
                if outer.left:
                    outer.left -= 1
                    outer.act()
                    found.log.log(found.trt.ILogger.Severity.ERROR, outer.message)
                    return None
                return super().build_serialized_network(network, config)

        self.trt = SimpleNamespace(**{**vars(found.trt), "Builder": Builder})
        self.library = Library("tensorrt-rtx", self.trt, found.log)
