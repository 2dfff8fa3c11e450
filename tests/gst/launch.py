# SPDX-License-Identifier: Apache-2.0
"""Runs GStreamer with the element, as a user would: its tools, its Python, this environment's packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crispstream.frame import ColorSpec, Frame, PixelFormat, plane_shapes

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
PACKAGES = {
    "gstreamer1.0-tools": ["gst-launch-1.0", "--version"],
    "gstreamer1.0-python3-plugin-loader": ["gst-inspect-1.0", "python"],
    "gstreamer1.0-plugins-base": ["gst-inspect-1.0", "videotestsrc"],
    "gstreamer1.0-plugins-good": ["gst-inspect-1.0", "matroskamux"],
    "gstreamer1.0-plugins-bad": ["gst-inspect-1.0", "openh264dec"],
    "gstreamer1.0-plugins-ugly": ["gst-inspect-1.0", "x264enc"],
    "python3-gst-1.0": [PYTHON, "-c", "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst"],
    "gir1.2-gst-plugins-base-1.0": [PYTHON, "-c", "import gi; gi.require_version('GstVideo', '1.0')"],
}
FLOATING = "The created element should be floating"


def missing() -> str:
    """Why the element cannot run here; empty where it can."""
    absent = [name for name, command in PACKAGES.items() if not _works(command)]
    if absent:
        return f"GStreamer is not complete, type: apt install {' '.join(absent)}"
    asked = [PYTHON, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    theirs = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "" if theirs == ours else f"GStreamer's Python is {theirs}, this environment's {ours}"


def _works(command: list[str]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for GStreamer, with a registry of its own. Skips where a package is missing; with
    CRISPSTREAM_NEEDS_GST set, fails."""
    if reason := missing():
        (pytest.fail if os.environ.get("CRISPSTREAM_NEEDS_GST") else pytest.skip)(reason)
    return {
        **os.environ,
        # Another Python's folder before the system's makes GStreamer's embedded one look for its library there.
        "PATH": os.pathsep.join(["/usr/bin", os.environ["PATH"]]),
        "GST_PLUGIN_PATH": str(ROOT / "gst"),
        "GST_REGISTRY": str(tmp_path_factory.mktemp("gst") / "registry.bin"),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def launch(
    environment: dict[str, str], description: str, *options: str, expected: int = 0, timeout: float = 120
) -> str:
    """What ``gst-launch-1.0`` said on standard error."""
    command = ["gst-launch-1.0", "-q", *options, *description.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == expected, done.stdout + done.stderr
    # Said of every element in Python with Debian 12's PyGObject, whatever the element does.
    return "\n".join(line for line in done.stderr.splitlines() if line and FLOATING not in line)


def scenario(environment: dict[str, str], name: str, timeout: float = 240) -> Any:
    """What a function of ``scenarios.py`` saw."""
    command = [PYTHON, str(Path(__file__).with_name("scenarios.py")), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def frames(path: Path, pixel_format: PixelFormat, width: int, height: int, color: ColorSpec) -> list[Frame]:
    """A file of raw video in GStreamer's layout: rows of 4n bytes, planes of chroma for an even height."""
    places, at = [], 0
    for shape in plane_shapes(pixel_format, width, height):
        stride = -(-int(np.prod(shape[1:])) // 4) * 4
        places.append((shape, at, stride))
        even = height + height % 2 if pixel_format.is_yuv else height
        at += stride * (even if shape[0] == height and len(places) == 1 else even // 2)
    data = path.read_bytes()
    assert len(data) % at == 0, f"{len(data)} bytes are no frames of {at}"
    found = []
    for start in range(0, len(data), at):
        planes = []
        for shape, offset, stride in places:
            inner = (shape[2], 1) if len(shape) == 3 else (1,)
            planes.append(np.ndarray(shape, np.uint8, data, start + offset, (stride, *inner)))
        found.append(Frame(tuple(planes), pixel_format, color))
    return found
