# SPDX-License-Identifier: Apache-2.0
"""Damage for JSON: other types, huge numbers, NaN, deep nesting, keys that are missing or there twice, paths."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from mutate import mutated


class Raw(str):
    """Text that is written as it is."""


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 16, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, 1e308, "", "x", "\0", "\u0663"),
    *("nan", "../secret.txt", "/etc/passwd", "..", ".", "a/b", "x" * 5000, "new\nline", "height_0", "height_16"),
    *("width_99999999999999999999", "weights.safetensors", "encoder.onnx", [], {}, [1], [[]], ["x"] * 50),
    *(Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), Raw("-" + "9" * 5000 + ".5"), Raw('"\\ud800"')),
    *(Raw("[" * 3000 + "]" * 3000), Raw('{"a":' * 100_000 + "1" + "}" * 100_000), Raw("nonsense"), Raw("")),
    *([0, 0], [2**70, 1]),
)  # fmt: skip


class _Object(list[list[Any]]):
    """[name, value] of an object, in order: a name may be there twice."""


def mutated_json(text: str, rng: Random) -> bytes:
    """One to five mutations of a JSON document, and now and then of its bytes."""
    tree = json.loads(text, object_pairs_hook=lambda pairs: _Object([list(pair) for pair in pairs]))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        tree = _changed(tree, rng)
    data = _text(tree).encode("utf-8", "surrogatepass")
    return mutated("note.json", data, rng) if rng.random() < 0.15 else data


def _changed(tree: Any, rng: Random) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.01:
        return copy.deepcopy(rng.choice(VALUES))
    within, index = rng.choice(places)
    is_object = isinstance(within, _Object)
    what = rng.randrange(8)
    if what == 0:
        del within[index]
    elif what == 1:
        within.insert(rng.randrange(len(within) + 1), list(within[index]) if is_object else within[index])
    elif what == 2 and is_object:
        within[index] = [
            rng.choice(("file", "schema", "", "x" * 2000, "shape", within[index][0] + "2")),
            within[index][1],
        ]
    elif what == 3:
        other, there = rng.choice(places)
        value = other[there][1] if isinstance(other, _Object) else other[there]
        # A copy: a tree that holds itself has no text.
        _set(within, index, json.loads(_plain(value)) if _plain(value) else None)
    else:
        _set(within, index, copy.deepcopy(rng.choice(VALUES)))
    return tree


def _plain(value: Any) -> str:
    """The text of a value that holds nothing raw and is no object; "" of others."""
    return "" if isinstance(value, (Raw, list)) else json.dumps(value)


def _set(within: Any, index: int, value: Any) -> None:
    if isinstance(within, _Object):
        within[index] = [within[index][0], value]
    else:
        within[index] = value


def _places(tree: Any) -> Any:
    """Every (list, index) below."""
    if isinstance(tree, list):
        for index, value in enumerate(tree):
            yield tree, index
            yield from _places(value[1] if isinstance(tree, _Object) else value)


def _text(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, _Object):
        return "{" + ", ".join(f"{json.dumps(name)}: {_text(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_text, tree)) + "]"
    return json.dumps(tree)
