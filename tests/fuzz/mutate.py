# SPDX-License-Identifier: Apache-2.0
"""Damage for files, blind and along the elements that they consist of. The same ``Random`` gives the same damage."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random

from elements import Element, elements, size_code

LONGEST = 1 << 20
NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 16, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2**31),
)
WORDS = (
    *(b"0", b"1", b"-1", b"99999", b"32768", b"32769", b"2147483647", b"4294967296", b"1" * 5000, b"W", b"H1"),
    *(b"W20000", b"H20000", b"F0:0", b"F1:0", b"A0:1", b"F2147483647:1", b"F1:2147483647", b"C444alpha", b"C411"),
    *(b"C420p16", b"C422p12", b"Cmono16", b"It", b"FRAME", b"\n", b" ", b"../secret.txt", b"file:///etc/passwd"),
    *(b"http://127.0.0.1:9/x", b"%d", b"\xff"),
)


def mutated(name: str, data: bytes, rng: Random, others: Callable[[], bytes] = bytes) -> bytes:
    """One to six mutations of a file of that name; ``others`` gives another file to take pieces of."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        found = elements(name, data)
        if found and rng.random() < 0.6:
            data = _structural(found, data, rng)
        elif rng.random() < 0.06:
            data = _spliced(data, others(), rng)
        else:
            data = rng.choice(_BLIND)(data, rng)
        data = data[:LONGEST]
    # Without right checksums a decoder looks no further.
    return _checked(data) if name.endswith(("png",)) and rng.random() < 0.9 else data


def _structural(found: list[Element], data: bytes, rng: Random) -> bytes:
    one = rng.choice(found)
    what = rng.randrange(8)
    if what == 0 and one.size_bytes:
        size = rng.choice((*NUMBERS, one.end - one.start - 1, one.end - one.start + 1))
        return _put(data, one.size_at, size_code(one, size))
    if what <= 3:  # a number inside, at a place where the form has one
        width = rng.choice((1, 2, 4, 4, 4, 8))
        places = range(one.body, min(one.end, one.body + 64), rng.choice((1, 2, 4)))
        if not places:
            return data
        return _put(data, rng.choice(places), _number(width, rng))
    if what == 4:  # without it
        return _instead(data, one, b"", rng)
    if what == 5:  # twice, or thousands of it
        times = rng.choice((2, 2, 3, 200))
        return _instead(data, one, data[one.start : one.end] * times, rng)
    if what == 6:  # cut short
        return _instead(data, one, data[one.start : rng.randint(one.start, one.end)], rng)
    other = rng.choice(found)
    first, second = sorted((one, other), key=lambda e: e.start)
    if first.end > second.start:
        return _instead(data, one, data[one.start : one.end][::-1], rng)
    middle = data[first.end : second.start]
    swapped = data[second.start : second.end] + middle + data[first.start : first.end]
    return data[: first.start] + swapped + data[second.end :]


def _instead(data: bytes, one: Element, new: bytes, rng: Random) -> bytes:
    """The file with other bytes there; mostly with the sizes around it set right, so that the damage is found late."""
    if rng.random() < 0.8:
        change = len(new) - (one.end - one.start)
        for parent in one.parents:
            size = parent.end - (parent.start if parent.order == "big" else parent.body) + change
            data = _put(data, parent.size_at, size_code(parent, size))
    return data[: one.start] + new + data[one.end :]


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _number(width: int, rng: Random) -> bytes:
    value = rng.choice(NUMBERS) if rng.random() < 0.8 else rng.getrandbits(8 * width)
    return (value % (1 << 8 * width)).to_bytes(width, rng.choice(("big", "little")))  # type: ignore[arg-type]


def _place(data: bytes, rng: Random) -> int:
    """Somewhere; headers lie at the beginning, and some indices at the end."""
    length = len(data)
    near = rng.random()
    if near < 0.4:
        return rng.randrange(min(length, 96) or 1)
    if near < 0.5:
        return max(0, length - 1 - rng.randrange(min(length, 400) or 1))
    return rng.randrange(length or 1)


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _poke(data: bytes, rng: Random) -> bytes:
    return _put(data, _place(data, rng), _number(rng.choice((1, 2, 4, 8)), rng))


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: _place(data, rng)]


def _drop(data: bytes, rng: Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 2, 4, 16, 188, 1000)) :]


def _double(data: bytes, rng: Random) -> bytes:
    start = _place(data, rng)
    end = start + rng.choice((1, 4, 16, 188, 1000))
    return data[:end] + data[start:end] * rng.choice((1, 1, 30)) + data[end:]


def _noise(data: bytes, rng: Random) -> bytes:
    return _put(data, _place(data, rng), rng.randbytes(rng.choice((1, 4, 64))))


def _word(data: bytes, rng: Random) -> bytes:
    start = _place(data, rng)
    return data[:start] + rng.choice(WORDS) + data[start + rng.choice((0, 1, 4)) :]


def _spliced(data: bytes, other: bytes, rng: Random) -> bytes:
    start, end = sorted((_place(other, rng), _place(other, rng)))
    at = _place(data, rng)
    return data[:at] + other[start:end] + data[at + rng.choice((0, end - start)) :]


_BLIND = (_flip, _flip, _poke, _poke, _poke, _cut, _drop, _double, _noise, _word)


def _checked(data: bytes) -> bytes:
    """A PNG with the checksums that its chunks should have."""
    for one in elements("x.png", data):
        inside = data[one.start + 4 : one.end - 4]
        data = _put(data, one.end - 4, zlib.crc32(inside).to_bytes(4, "big"))
    return data
