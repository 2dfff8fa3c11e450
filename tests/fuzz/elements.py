# SPDX-License-Identifier: Apache-2.0
"""The elements that a file consists of: boxes, EBML elements, chunks, segments, packets. Damage does no harm here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Element:
    """Bytes ``start`` to ``end`` of a file, of which those from ``body`` on are content.

    ``size_at``, ``size_bytes``: where its size is written (0 bytes: nowhere); ``order``: "big", "little" or "ebml".
    """

    start: int
    body: int
    end: int
    size_at: int = 0
    size_bytes: int = 0
    order: str = "big"
    parents: tuple[Element, ...] = ()


def size_code(element: Element, size: int) -> bytes:
    """``size`` as the element's size field has it, as far as it fits."""
    bits = 8 * element.size_bytes if element.order != "ebml" else 7 * element.size_bytes
    value = size % (1 << bits) if bits else 0
    if element.order == "ebml":
        return (value | 1 << bits).to_bytes(element.size_bytes, "big")
    return value.to_bytes(element.size_bytes, "little" if element.order == "little" else "big")


def elements(name: str, data: bytes) -> list[Element]:
    """Of a file of that name, outer ones before those inside; none where its form is not known."""
    reader = _READERS.get(PurePath(name).suffix)
    return [] if reader is None else list(reader(data))


# ISO/IEC 14496-12: boxes that hold boxes, and how much lies before the first of them.
_BOXES = dict.fromkeys(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex", b"dinf", b"ilst"), 0
) | {b"meta": 4, b"stsd": 8, b"dref": 8, b"avc1": 78, b"hvc1": 78, b"hev1": 78, b"mp4v": 78, b"mp4a": 28, b"apcn": 78}


def _boxes(data: bytes, start: int = 0, end: int = -1, parents: tuple[Element, ...] = ()) -> Iterator[Element]:
    end = len(data) if end < 0 else end
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        stop = start + size if 8 <= size <= end - start else end
        box = Element(start, start + 8, stop, start, 4, "big", parents)
        yield box
        if kind in _BOXES:
            yield from _boxes(data, box.body + _BOXES[kind], stop, (*parents, box))
        start = stop


# RFC 8794 and RFC 9559: the elements that hold others.
_MASTERS = {
    0x1A45DFA3, 0x18538067, 0x114D9B74, 0x4DBB, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0xA0, 0x1C53BB6B,
    0xBB, 0xB7, 0x1941A469, 0x61A7, 0x1043A770, 0x45B9, 0xB6, 0x1254C367, 0x7373, 0x67C8, 0x55B0, 0x63C0, 0x6D80,
}  # fmt: skip


def _ebml(data: bytes, start: int = 0, end: int = -1, parents: tuple[Element, ...] = ()) -> Iterator[Element]:
    end = len(data) if end < 0 else end
    while start + 2 <= end:
        id_bytes = 9 - data[start].bit_length()
        size_at = start + id_bytes
        size_bytes = 9 - data[size_at].bit_length() if size_at < end else 9
        if id_bytes > 4 or size_bytes > 8:
            return
        body = size_at + size_bytes
        size = int.from_bytes(data[size_at:body], "big") & ((1 << 7 * size_bytes) - 1)
        stop = body + size if size <= end - body else end
        one = Element(start, body, stop, size_at, size_bytes, "ebml", parents)
        yield one
        if int.from_bytes(data[start:size_at], "big") in _MASTERS:
            yield from _ebml(data, body, stop, (*parents, one))
        start = stop


def _riff(data: bytes, start: int = 0, end: int = -1, parents: tuple[Element, ...] = ()) -> Iterator[Element]:
    end = len(data) if end < 0 else end
    while start + 8 <= end:
        stop = min(end, start + 8 + int.from_bytes(data[start + 4 : start + 8], "little"))
        one = Element(start, start + 8, stop, start + 4, 4, "little", parents)
        yield one
        if data[start : start + 4] in (b"RIFF", b"LIST"):
            yield from _riff(data, one.body + 4, stop, (*parents, one))
        start = stop + (stop - start) % 2


def _png(data: bytes) -> Iterator[Element]:
    """Chunks (PNG, third edition, 5.3); the checksum belongs to what follows the size."""
    start = 8
    while start + 12 <= len(data):
        stop = min(len(data), start + 12 + int.from_bytes(data[start : start + 4], "big"))
        yield Element(start, start + 8, stop, start, 4)
        start = stop


def _jpeg(data: bytes) -> Iterator[Element]:
    """Segments up to the first scan (ITU-T T.81, B.1)."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        stop = min(len(data), start + 2 + int.from_bytes(data[start + 2 : start + 4], "big"))
        yield Element(start, start + 4, stop, start + 2, 2)
        if data[start + 1] == 0xDA:
            return
        start = stop


def _tiff(data: bytes) -> Iterator[Element]:
    """The entries of the first directory (TIFF 6.0, 2): tag, type, count, value; what is called size is the count."""
    start = int.from_bytes(data[4:8], "little")
    for index in range(int.from_bytes(data[start : start + 2], "little")):
        entry = start + 2 + 12 * index
        if entry + 12 <= len(data):
            yield Element(entry, entry + 2, entry + 12, entry + 4, 4, "little")


def _blocks(size: int) -> Callable[[bytes], Iterator[Element]]:
    def read(data: bytes) -> Iterator[Element]:
        for start in range(0, len(data), size):
            yield Element(start, min(start + 4, len(data)), min(start + size, len(data)))

    return read


def _lines(data: bytes) -> Iterator[Element]:
    """Words of a text, with the white space after them."""
    start = 0
    for index, letter in enumerate(data[:2000]):
        if letter in b" \n:=,":
            yield Element(start, start, index + 1)
            start = index + 1


_READERS: dict[str, Callable[[bytes], Iterator[Element]]] = {
    **dict.fromkeys((".mp4", ".mov"), _boxes),
    **dict.fromkeys((".mkv", ".webm"), _ebml),
    **dict.fromkeys((".avi", ".webp"), _riff),
    **dict.fromkeys((".png", ".apng"), _png),
    **dict.fromkeys((".jpg", ".jpeg"), _jpeg),
    **dict.fromkeys((".tif", ".tiff"), _tiff),
    **dict.fromkeys((".bmp", ".gif", ".ivf", ".flv", ".ogv", ".mxf", ".nut", ".wmv"), _blocks(14)),
    ".ts": _blocks(188),
    ".mpg": _blocks(64),
    ".y4m": _lines,
}
