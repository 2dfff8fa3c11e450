# SPDX-License-Identifier: Apache-2.0
"""Where each tensor lies inside a safetensors file, so that ONNX graphs can point at it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crispstream.errors import EngineError


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One FP16 tensor: its value and the bytes of the file that hold it."""

    value: npt.NDArray[np.float16]
    offset: int
    length: int


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file (8 bytes header length, JSON header, data). Raises EngineError if not FP16."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header: dict[str, dict[str, Any]] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] != "F16":
            raise EngineError(f"weight {name} in {path} is {entry['dtype']}, not F16", "write it with save_weights")
        begin, end = entry["data_offsets"]
        value = np.frombuffer(data, "<f2", (end - begin) // 2, start + begin).reshape(entry["shape"])
        found[name] = StoredTensor(value, start + begin, end - begin)
    return found
