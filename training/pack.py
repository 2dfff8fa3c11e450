# SPDX-License-Identifier: Apache-2.0
"""A small copy of the photographs: ``python -m training.pack --data DIR --output DIR --mib 40``.

For training where little can be carried. Photographs become WebP of at most 720 pixels, masks bilevel PNG. Both splits
are represented as in the whole; people come first, but leave a quarter of the space to other pictures. The same
photographs and the same size give the same files.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from pathlib import Path

import cv2
import numpy as np

from crispstream.errors import CrispStreamError, OutputError, UsageError
from training.dataset import read_rgb

LONGEST = 720
"""Pixels; training takes crops at half to full size, so little is lost."""

QUALITY = 85
PEOPLE_SHARE = 0.75
FRAME_QUALITY = 92
Row = dict[str, str]


def read_rows(data: Path) -> list[Row]:
    """Rows of the manifest whose files are there. Raises FileNotFoundError without a manifest."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [r for r in rows if (data / r["image"]).exists() and (not r["mask"] or (data / r["mask"]).exists())]


def encode(data: Path, row: Row) -> tuple[Row, dict[str, bytes]]:
    """The row of the packed photograph and the bytes of its files by their path."""
    image = cv2.cvtColor(read_rgb(data / row["image"]), cv2.COLOR_RGB2BGR)
    scale = min(1.0, LONGEST / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    packed = dict(row, image=str(Path(row["image"]).with_suffix(".webp")))
    packed |= {name: str(value) for name, value in zip(("width", "height"), size, strict=True) if name in row}
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    files = {packed["image"]: cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1].tobytes()}
    if row["mask"]:
        mask = cv2.imread(str(data / row["mask"]), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise FileNotFoundError(f"{data / row['mask']} is not a picture")
        mask = np.asarray((cv2.resize(mask, size, interpolation=cv2.INTER_AREA) > 127) * 255, np.uint8)
        packed["mask"] = str(Path(row["mask"]).with_suffix(".png"))
        files[packed["mask"]] = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    return packed, files


def _line(row: Row) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row.values())
    return text.getvalue()


class Packer:
    """Writes files into an empty folder up to ``limit`` bytes; the manifest's lines are counted."""

    def __init__(self, data: Path, output: Path, limit: int) -> None:
        """Raises OutputError when ``output`` holds anything."""
        if output.exists() and any(output.iterdir()):
            raise OutputError(f"{output} is not empty", "name a new folder")
        self.data, self.output, self.limit = data, output, limit
        self.used = 0
        self.rows: list[Row] = []

    def write(self, files: dict[str, bytes], extra: int, limit: int) -> bool:
        """Write ``files`` and count them with ``extra`` bytes, or do nothing where that passes ``limit``."""
        size = extra + sum(len(content) for content in files.values())
        if self.used + size > limit:
            return False
        for name, content in files.items():
            path = self.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.used += size
        return True

    def photographs(self, rows: list[Row], share: float) -> list[Row]:
        """Pack ``rows`` in order until ``share`` of the limit is reached; the rows that are left."""
        for index, row in enumerate(rows):
            packed, files = encode(self.data, row)
            if not self.write(files, len(_line(packed).encode()), round(share * self.limit)):
                return rows[index:]
            self.rows.append(packed)
        return []

    def high_speed(self) -> None:
        """Pack every folder of 240 fps frames whole, or raise UsageError and write none where they do not fit."""
        files: dict[str, bytes] = {}
        for path in sorted(self.data.glob("*240/*.jpg")):
            frame = cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2BGR)
            content = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, FRAME_QUALITY])[1]
            files[f"{path.parent.name}/{path.name}"] = content.tobytes()
        if not self.write(files, 0, self.limit):
            mib = sum(map(len, files.values())) / 2**20
            raise UsageError(f"the high-speed frames alone are {mib:.1f} MiB", "give more --mib, or leave --frames out")


def pack(data: Path, output: Path, mib: float, frames: bool = False) -> list[Row]:
    """Write at most ``mib`` MiB to ``output``, with every high-speed frame if ``frames``; the rows of its manifest.

    Raises UsageError where not even one photograph of each split fits, OutputError when ``output`` is not empty.
    """
    rows = sorted(read_rows(data), key=lambda row: hashlib.sha256(row["image"].encode()).digest())
    packer = Packer(data, output, int(mib * 2**20))
    header = ",".join(rows[0]) + "\n"
    packer.write({}, len(header), packer.limit)
    if frames:
        packer.high_speed()
    free = (packer.limit - packer.used) / packer.limit
    end = packer.used / packer.limit
    splits = {split: [row for row in rows if row["split"] == split] for split in ("val", "train")}
    for split in splits.values():
        start, end = end, end + free * len(split) / len(rows)
        people = [row for row in split if row["mask_class"].startswith("person")]
        others = [row for row in split if not row["mask_class"].startswith("person")]
        left = packer.photographs(people, start + PEOPLE_SHARE * (end - start))
        left += packer.photographs(others, end)
        packer.photographs(left, end)
    if {row["split"] for row in packer.rows} != set(splits):
        raise UsageError(f"{mib} MiB hold no photograph of each split", "give more --mib")
    order = sorted(packer.rows, key=lambda row: row["image"])
    (output / "manifest.csv").write_text(header + "".join(_line(row) for row in order))
    return order


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, images/, masks/")
    parser.add_argument("--output", type=Path, default=Path("runs/data"), help="new folder (default: runs/data)")
    parser.add_argument("--mib", type=float, default=40, help="the most that all files take together")
    parser.add_argument("--frames", action="store_true", help="pack folders of high-speed frames too (NAME240/)")
    arguments = parser.parse_args()
    try:
        rows = pack(arguments.data, arguments.output, arguments.mib, arguments.frames)
    except (CrispStreamError, FileNotFoundError) as error:
        sys.exit(f"error: {error}\n{getattr(error, 'hint', '')}".rstrip())
    total = sum(path.stat().st_size for path in arguments.output.rglob("*") if path.is_file())
    people = sum(row["mask_class"].startswith("person") for row in rows)
    val = sum(row["split"] == "val" for row in rows)
    print(f"{len(rows)} photographs, {people} of people, {val} for validation, {total / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
