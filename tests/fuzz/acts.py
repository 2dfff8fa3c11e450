# SPDX-License-Identifier: Apache-2.0
"""What a user would do with a file, and whether it ended as promised: the right way, or with one clear line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import av
import clocks
import numpy as np
import seeds
from clips import Identity
from notes import VALUES
from PIL import Image

from crispstream import Deblurrer, manifest, plan, quantised, run
from crispstream.commands.common import frame_rate, frame_size
from crispstream.compare import compare
from crispstream.cut import parse_time
from crispstream.errors import CrispStreamError, EarlyEndError, EngineError, InputError, UsageError
from crispstream.frame import Frame
from crispstream.patterns import find_pictures, is_numbered, is_pattern, nth
from crispstream.record import JobRecord


class BrokenPromiseError(Exception):
    """A promise was not kept."""


def film(path: Path, rng: Random) -> str:
    """Into a film, raw frames or pictures, all of it or a part. Returns what was said."""
    target = rng.choice(
        ("out.mp4", "out.mp4", "out.mkv", "out.mkv", "out.mov", "out.webm", "out.ts", "out.y4m", "%d.png")
    )
    if rng.random() < 0.1:
        return _checked(path, partial(_compare, path, Path("out/out.mkv")))
    settings: dict[str, Any] = {}
    if rng.random() < 0.2:
        settings["start"] = rng.choice(("0", "0.04", "0.1", "1:00:00"))
    if rng.random() < 0.2:
        settings["end"] = rng.choice(("0.05", "0.11", "99999"))
    if rng.random() < 0.5:
        settings["allow_8bit"] = True
    if target in ("out.mp4", "out.mkv", "out.ts") and rng.random() < 0.4:
        settings["encoder"] = "mpeg4"
    if rng.random() < 0.1:
        settings["odd"] = "444"
    source: str | Path = path
    if path.suffix == ".y4m" and rng.random() < 0.5:
        settings = {"size": (rng.choice((1, 7, 16)), 8), "pixel_format": rng.choice(("bgr24", "nv12", "i420"))}
    if path.suffix == ".y4m" and rng.random() < 0.5:
        os.dup2(os.open(path, os.O_RDONLY), 0)
        source = "-"
    return _checked(path, partial(_run, source, Path("out") / target, settings))


def picture(path: Path, rng: Random) -> str:
    """Into a picture, alone or as one of a folder, or as a frame of a film."""
    what = rng.randrange(8)
    if what == 0:
        return _checked(path, partial(_run, path.parent, Path("out"), {}))
    if what == 1:
        source = str(path.parent / f"*{path.suffix}")
        return _checked(path, partial(_run, source, Path("out/out.mkv"), {"encoder": "ffv1"}))
    if what == 2:
        return _checked(path, partial(_compare, path, Path("out/out.png")))
    suffix = rng.choice((path.suffix, path.suffix, ".png", ".jpg", ".webp", ".tif", ".bmp"))
    return _checked(path, partial(_run, path, Path(f"out/out{suffix}"), {}))


def clock(folder: Path, rng: Random) -> str:
    """Frames of strange times into a sink."""
    return _checked(None, partial(clocks.write, rng, Path("out"), Identity()))


def _run(source: str | Path, target: Path, settings: dict[str, Any]) -> tuple[int, list[str]]:
    """Frames written, and what was said of them."""
    report = run(source, target, deblurrer=Identity(), **settings)
    json.dumps(report.to_dict(), default=str)
    return report.frames, [*report.warnings, *report.skipped, *(reason for _, reason in report.failed)]


def _compare(path: Path, target: Path) -> tuple[int, list[str]]:
    """The file beside itself, and itself as what both should be."""
    report = compare(path, path, target, reference=path)
    # What a decoder makes of damage may differ from run to run.
    if report["after"]["psnr"] < 90 and not report["warnings"]:
        raise BrokenPromiseError(f"a picture is not like itself: {report}")
    return report["frames"], report["warnings"]


def _checked(path: Path | None, action: Callable[[], tuple[int, list[str]]]) -> str:
    """What was said, after a look at all that is left behind."""
    before = b"" if path is None else path.read_bytes()
    Path("out").mkdir()
    frames, said = 0, ""
    try:
        frames, remarks = action()
    except EarlyEndError as error:
        frames, said = -1, _one_line(error)
    except CrispStreamError as error:
        said = _one_line(error)
    else:
        said = f"done: {remarks}"
        if frames == 0 or any("\n" in remark for remark in remarks):
            raise BrokenPromiseError(f"{frames} frames, or a remark of several lines: {remarks}")
    if path is not None and path.read_bytes() != before:
        raise BrokenPromiseError("the input was changed")
    left = sorted(p for p in Path("out").rglob("*") if p.is_file())
    if any(p.name.endswith(".part") for p in left) or (left and not frames):
        raise BrokenPromiseError(f"left behind: {left}, after: {said}")
    found = sum(map(_count, left))
    if frames > 0 and found != frames:
        raise BrokenPromiseError(f"{found} frames in {left} instead of {frames}, after: {said}")
    return said


def _one_line(error: CrispStreamError, ours: bool = True) -> str:
    """What is said; one line where all words are ``ours``."""
    said = f"{type(error).__name__}: {error} ({error.hint})"
    if ours and ("\n" in said or len(said) > 1500):
        raise BrokenPromiseError(f"an error of {said.count(chr(10)) + 1} lines and {len(said)} letters: {said}")
    if not 2 <= error.exit_code <= 5:
        raise BrokenPromiseError(f"exit code {error.exit_code}: {said}")
    return said


def _count(path: Path) -> int:
    """How many pictures an output holds, decoded to the last one."""
    try:
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"):
            with Image.open(path) as picture:
                picture.load()
            return 1
        with av.open(str(path), metadata_errors="surrogateescape") as container:
            return sum(1 for _ in container.decode(container.streams.video[0]))
    except Exception as error:
        raise BrokenPromiseError(
            f"the output {path.suffix} cannot be decoded: {type(error).__name__}: {error}"
        ) from error


def note(folder: Path, rng: Random) -> str:
    """Load an engine with its plans and INT8 graphs and a job's record from ``folder``; open it now and then."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    opened: list[str] = []
    sys.addaudithook(lambda event, about: opened.append(str(about[0])) if event == "open" else None)
    said = [_engine(folder / "engine", rng), *_cache(folder), _record(folder / "job")]
    outside = [name for name in opened if name.endswith(("secret.txt", "/etc/passwd"))]
    if outside:
        raise BrokenPromiseError(f"opened {outside}")
    return " ".join(said)


def _told(action: Callable[[], Any], *kinds: type[CrispStreamError], ours: bool = True) -> str:
    """Its error if it is one of ``kinds``; others are raised."""
    try:
        return str(action())
    except kinds as error:
        return _one_line(error, ours)


def _engine(folder: Path, rng: Random) -> str:
    def load() -> str:
        made = manifest.load(folder)
        json.dumps(made.summary(), default=str)
        with Deblurrer(folder, "cpu", backend=rng.choice(("onnxruntime", "onnxruntime-int8")), threads=1) as ready:
            frame = Frame.from_array(np.full((20, 36, 3), 99, np.uint8))
            if ready(frame).planes[0].shape != (20, 36, 3):
                raise BrokenPromiseError("a frame of another size came back")
        return "engine runs"

    return _told(load, EngineError)


def _cache(folder: Path) -> list[str]:
    shipped = manifest.load("nano")

    def find() -> str:
        found = plan.find(shipped, "tensorrt", seeds.VERSION, seeds.GPU, (640, 368))
        found.mismatch(shipped, "tensorrt-rtx", "1", seeds.GPU)
        return f"plan {found.profile} {len(b''.join(map(found.read, manifest.PARTS)))}"

    described = json.dumps(quantised.describe(shipped), default=str)
    return [_told(find, EngineError), described, quantised.reason_against(shipped)]


def _record(folder: Path) -> str:
    record = JobRecord(folder)
    target = folder / "a.png"
    states = record.is_ours(target), record.is_finished(target, "0" * 64, "1" * 64)
    record.add(target, "2" * 64, "3" * 64, True)
    if not JobRecord(folder).is_finished(target, "2" * 64, "3" * 64):
        raise BrokenPromiseError("what was written down is not found again")
    return str(states)


_PIECES = (
    *(
        "%d",
        "%04d",
        "%0d",
        "%%",
        "%9999999999d",
        "%099999d",
        "%\u0663d",
        "*",
        "?",
        "[",
        "]",
        "[!a",
        "{",
        "a",
        "7",
        ".png",
    ),
    *("..", "/", "\0", "\n", ":", "1", "59", "60", ".5", "9" * 30, "9" * 5000, "-", "+", "e9", "nan", "inf", "\u0661"),
    *(" ", "x", "30000/1001", "1/0", "25", "32768", "99999", "_", "\udcff", "\\", "^", "$", "(", "~"),
)


def text(folder: Path, rng: Random) -> str:
    """Two hundred strings as times, rates, sizes, patterns and names."""
    said = set()
    Path("7.png").write_bytes(b"x")
    for _ in range(200):
        # A message says the user's own words, which the command line folds into one line.
        string = "".join(rng.choice(_PIECES) for _ in range(rng.choice((1, 1, 2, 3, 4, 6))))
        if rng.random() < 0.1:
            string = str(rng.choice([v for v in VALUES if not isinstance(v, list)]))
        try:
            said |= set(_answers(string))
        except (BrokenPromiseError, CrispStreamError):
            raise
        except Exception as error:
            error.args = (*error.args, string[:80])
            raise
    return f"{len(said)} answers"


def _answers(string: str) -> Iterator[str]:
    for parse in (parse_time, frame_rate, frame_size):
        yield _told(partial(parse, string), UsageError, ours=False)[:40]
    yield _told(partial(_pattern, Path(string)), InputError, ours=False)[:40]
    for source, target in ((string, "out.png"), (string, "out.mp4"), ("7.png", string), ("*.png", string)):
        yield _told(partial(run, source, target, deblurrer=Identity()), CrispStreamError, ours=False)[:40]


def _pattern(path: Path) -> str:
    if ".." in path.parts or path.is_absolute() or "**" in str(path):
        return "elsewhere"
    if is_numbered(path):
        nth(path, 12)
    return str(is_pattern(path) and find_pictures(path))
