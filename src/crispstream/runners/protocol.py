# SPDX-License-Identifier: Apache-2.0
"""What takes a frame through unpack, engine and blend."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crispstream.frame import Frame
from crispstream.gating import Decision
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Outcome:
    """One restored frame. ``statistics``: what gating decides from; ``non_finite``: residual values dropped;
    ``seconds``: how long each stage took, by name. ``head``: person mask and blur gate, (2, rows, columns), one value
    per cell of map_stride pixels; None where they stay in a GPU's memory."""

    frame: Frame
    statistics: tuple[float, float]
    non_finite: int
    seconds: dict[str, float]
    head: npt.NDArray[np.float32] | None = None


class Runner(Protocol):
    """An engine with all that a frame needs around it. May be used from any thread."""

    def prepare(self, frame: Frame) -> None:
        """Allocate and warm up for frames of this size, format and colour. Raises EngineError where that fails."""

    def submit(self, frame: Frame, decision: Decision, strength: float) -> Future[Outcome]:
        """Start on a frame; results come in the order of submission. The frame's memory is read until then.

        The future raises EngineError where the engine fails.
        """

    def pinned(self, like: Frame) -> Frame:
        """A frame as ``like`` in memory that the engine reads fastest; ``like`` itself where there is none better."""

    def maps(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Person mask and blur gate of a frame: (2, rows, columns), one value per cell of map_stride pixels."""

    def close(self) -> None:
        """Free everything, the engine included; a second call does nothing."""


def geometry_of(manifest: Manifest, size: tuple[int, int]) -> Geometry:
    """The network's view of frames of this (width, height)."""
    return Geometry.for_size(*size, pack=manifest.pack, multiple=manifest.multiple, map_stride=manifest.map_stride)


def visible(head: npt.NDArray[Any], frame: Frame, map_stride: int) -> npt.NDArray[np.float32]:
    """The cells of a head (1, 2, H, W) that lie on the frame and not on its padding, as float32."""
    rows, columns = -(-frame.height // map_stride), -(-frame.width // map_stride)
    return head[0, :, :rows, :columns].astype(np.float32)
