# SPDX-License-Identifier: Apache-2.0
"""Charts as PNG, drawn with Pillow at twice their size and scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

Point: TypeAlias = tuple[float, float]
Range: TypeAlias = tuple[float, float]

COLOURS = ("#1f6fb2", "#d1641a", "#2f8f4e", "#8a5ab0", "#b03a48", "#6b6b6b")
INK, GRID = "#333333", "#dddddd"
WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 64
SCALE = 2
TICKS = 5


class Chart:
    """Axes with a title. ``x`` and ``y``: ranges of values; ``x_ticks``: values and their names, numbers without."""

    def __init__(
        self, title: str, x_name: str, y_name: str, x: Range, y: Range, x_ticks: Sequence[tuple[float, str]] = ()
    ) -> None:
        self._x, self._y = x, y
        self._image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._named: list[str] = []
        self._text(LEFT, 8, title, 15)
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 30, x_name, 12, "mt")
        self._text(LEFT, TOP - 3, y_name, 12, "lb")
        for value in ticks(*y):
            at = self._at(x[0], value)[1]
            self._line([(LEFT, at), (WIDTH - RIGHT, at)], GRID, 1)
            self._text(LEFT - 6, at, f"{value:g}", 12, "rm")
        for value, name in x_ticks or [(value, f"{value:g}") for value in ticks(*x)]:
            at = self._at(value, y[0])[0]
            self._line([(at, HEIGHT - BOTTOM), (at, HEIGHT - BOTTOM + 4)], INK, 1)
            for row, words in enumerate(name.splitlines()):
                self._text(at, HEIGHT - BOTTOM + 7 + 14 * row, words, 12, "mt")
        self._line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK, 1)

    def line(self, name: str, points: Sequence[Point], dots: bool = True) -> None:
        """Points joined in their order, and a name on the right."""
        colour = self._key(name)
        places = [self._at(*point) for point in points]
        self._line(places, colour, 2)
        if dots:
            for place in places:
                self._dot(place, colour)

    def dots(self, name: str, points: Sequence[Point], labels: Sequence[str] = ()) -> None:
        """Points alone, each with its label beside it."""
        colour = self._key(name)
        for index, point in enumerate(points):
            x, y = self._at(*point)
            self._dot((x, y), colour)
            if labels:
                self._text(x + 8, y, labels[index], 12, "lm")

    def bars(self, name: str, boxes: Sequence[tuple[float, float, float, float]]) -> None:
        """Filled boxes: left, right, bottom, top."""
        colour = self._key(name)
        for left, right, bottom, top in boxes:
            (x0, y1), (x1, y0) = self._at(left, bottom), self._at(right, top)
            self._draw.rectangle([n * SCALE for n in (x0, y0, x1, y1)], colour)

    def mark(self, x: float, label: str) -> None:
        """An upright line with a label at its top."""
        at = self._at(x, self._y[0])[0]
        self._line([(at, TOP), (at, HEIGHT - BOTTOM)], INK, 1)
        self._text(at + 4, TOP + 8, label, 12, "lm")

    def save(self, path: Path) -> None:
        """Write the PNG; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, optimize=True)

    def _key(self, name: str) -> str:
        if name not in self._named:
            self._named.append(name)
            at = TOP + 18 * len(self._named)
            colour = COLOURS[(len(self._named) - 1) % len(COLOURS)]
            self._line([(WIDTH - RIGHT + 12, at), (WIDTH - RIGHT + 30, at)], colour, 4)
            self._text(WIDTH - RIGHT + 36, at, name, 12, "lm")
        return COLOURS[self._named.index(name) % len(COLOURS)]

    def _at(self, x: float, y: float) -> Point:
        (left, right), (bottom, top) = self._x, self._y
        across, up = (x - left) / (right - left), (y - bottom) / (top - bottom)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def _line(self, points: Sequence[Point], colour: str, width: int) -> None:
        self._draw.line([(x * SCALE, y * SCALE) for x, y in points], colour, width * SCALE, joint="curve")

    def _dot(self, place: Point, colour: str) -> None:
        self._draw.circle([n * SCALE for n in place], 4 * SCALE, colour)

    def _text(self, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
        self._draw.text((x * SCALE, y * SCALE), text, INK, ImageFont.load_default(size * SCALE), anchor)


def ticks(low: float, high: float) -> list[float]:
    """Some TICKS round numbers from ``low`` to ``high``."""
    rough = (high - low) / TICKS
    power = 10 ** floor(log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    return [round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
