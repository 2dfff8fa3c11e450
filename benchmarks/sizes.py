# SPDX-License-Identifier: Apache-2.0
"""Frame sizes that are measured, by the names that they have in parameters and results."""

from __future__ import annotations

SIZES = ("640x360", "1280x720", "1920x1080", "3840x2160")


def pixels(size: str) -> tuple[int, int]:
    """Width and height of "640x360"."""
    width, _, height = size.partition("x")
    return int(width), int(height)


def area(size: str) -> int:
    """Pixels of "640x360"."""
    width, height = pixels(size)
    return width * height
