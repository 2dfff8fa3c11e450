# SPDX-License-Identifier: Apache-2.0
"""Mutated files through the program, one process each: ``python tests/fuzz/fuzz.py --minutes 60 --seed 1 --keep DIR``.

A case is the name of a seed file and numbers, as in ``h264.mp4/12.3051``: one round of mutations for each number, so
that ``--case`` makes it again from nothing. A case that is answered as none before becomes a beginning for others
unless ``--plain`` is given. Ends with 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import acts
import seeds
from mutate import mutated
from notes import mutated_json
from PIL import Image
from workers import attempt

import crispstream.engine.int8  # noqa: F401  loaded before the forks, like all that a run needs
from crispstream.cli import quiet_libraries
from crispstream.manifest import FACTORS, PARTS

SECONDS = 40.0
"""How long one case may take; tiny films take 0.1 s."""
DEEPEST = 6
WEIGHTS = {"film": 54, "picture": 20, "note": 14, "text": 4, "clock": 8}
"""How often each kind is drawn, in percent."""
PARTS_OF_NOTES = ("engine/manifest.json", "plan.json", "int8.json", "job/.crispstream-job.jsonl")
KNOWN_NOISE = re.compile(r"^\w+(\.tif)?: .*\n", re.M)
"""Such lines libtiff writes to standard error by itself ("TIFFReadDirectory: ..."), and Pillow does not stop it."""
BLOBS = ("weights.safetensors", *(f"{name}.onnx" for name in (*PARTS, *FACTORS.values())))


class Fuzzer:
    """Makes cases from the seeds in ``folder``, which it writes, and tries them one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # the program's locks
        self.names: dict[str, list[str]] = {"text": ["text"], "clock": ["clock"]}
        for kind, write in seeds.WRITERS.items():
            place = folder / kind
            place.mkdir()
            if kind == "note":
                os.environ["XDG_CACHE_HOME"] = str(place / "cache")
            found = attempt(lambda write=write, place=place: write(place), place, 120)  # type: ignore[misc]
            if found["end"] != "returned":
                raise RuntimeError(f"the seeds of {kind} cannot be written: {found}")
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            self.names[kind] = sorted(p.name for p in place.iterdir())
        self.names["note"] = [*PARTS_OF_NOTES, *BLOBS]
        self._kinds = {name: kind for kind, names in self.names.items() for name in names}

    def draw(self, rng: Random, only: str | None) -> str:
        """The name of a seed."""
        kind = only or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        return rng.choice(self.names[kind])

    def try_case(self, case: str, keep: Path | None = None) -> dict[str, Any]:
        """What becomes of a case; its file is left in ``keep``."""
        name, _, numbers = case.rpartition("/")
        kind = self._kinds[name]
        place = self._folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        rounds = [Random(f"{name}/{number}") for number in numbers.split(".")]
        changed = (
            self._changed_note(name, place, rounds) if kind == "note" else self._changed_file(kind, name, place, rounds)
        )
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            if changed.is_file():
                shutil.copy(changed, keep / case.replace("/", "-"))
        act = getattr(acts, kind)
        return attempt(lambda: act(changed if kind != "note" else place, rounds[-1]), place, SECONDS)

    def _changed_file(self, kind: str, name: str, place: Path, rounds: list[Random]) -> Path:
        if kind in ("text", "clock"):
            return place
        data = (self._folder / kind / name).read_bytes()
        for rng in rounds:
            data = mutated(name, data, rng, lambda rng=rng: self._another(kind, rng))  # type: ignore[misc]
        (place / "in").mkdir()
        path = place / "in" / f"in{Path(name).suffix}"
        path.write_bytes(data)
        return path

    def _another(self, kind: str, rng: Random) -> bytes:
        return (self._folder / kind / rng.choice(self.names[kind])).read_bytes()

    def _changed_note(self, name: str, place: Path, rounds: list[Random]) -> Path:
        """Links to the notes, and one of them changed; a blob with the right hash in its manifest."""
        shutil.copytree(self._folder / "note", place, copy_function=os.link, dirs_exist_ok=True)
        path = next(p for p in place.rglob("*") if p.is_file() and str(p).endswith(name))
        data = path.read_bytes()
        for rng in rounds:
            try:
                data = mutated(name, data, rng) if name in BLOBS else mutated_json(data.decode(), rng)
            except (ValueError, RecursionError):  # no JSON any more
                data = mutated(name, data, rng)
        _replace(path, data)
        record = path.parent / "a.png" if name.endswith(".jsonl") else None
        if record is not None:
            _replace(record, record.read_bytes())
        if name in BLOBS:
            about = place / "engine" / "manifest.json"
            fields = json.loads(about.read_text())
            entry = fields["weights"] if name == BLOBS[0] else fields["graphs"][path.stem]
            entry["sha256"] = acts.manifest.sha256(data)
            _replace(about, json.dumps(fields).encode())
        return path


def _replace(path: Path, data: bytes) -> None:
    """Other content under that name; the file that the link led to stays as it is."""
    path.unlink()
    path.write_bytes(data)


def signature(outcome: dict[str, Any]) -> str:
    """What makes an outcome the same as another: words without numbers and names."""
    if outcome["end"] == "signal":
        where = re.findall(r'File ".*?([^/"]+)", line \d+ in (\w+)', outcome["printed"])
        said = f"signal {outcome['number']} at {where[:2]}"
    elif outcome["end"] == "hang":
        where = re.findall(r'File ".*?(crispstream/[^"]+)", line \d+ in (\w+)', outcome["printed"])
        said = f"hang at {where[:4]}"
    elif outcome["end"] == "raised":
        kind, _, text = outcome["error"].partition(":")
        said = f"{kind}{text if kind == 'BrokenPromiseError' else ''} at {outcome['trace'][-5:]}"
    else:
        printed = KNOWN_NOISE.sub("", outcome["printed"])
        noise = f" printed {printed[:200]}" if printed else ""
        said = f"{outcome['value']}{noise}"
    return re.sub(r"\d+", "#", re.sub(r"/\S+", "PATH", re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b", "HEX", said)))[:400]


def is_finding(outcome: dict[str, Any]) -> bool:
    """Whether an outcome is none of those that are promised; words on standard error count."""
    return outcome["end"] != "returned" or bool(KNOWN_NOISE.sub("", outcome["printed"]))


def main() -> int:
    """Fuzz for some time and print what was found as JSON."""
    parser = argparse.ArgumentParser(description="Fuzz what a user's file can be.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--least", type=int, default=0, help="as many cases, however long they take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the files of findings are left")
    parser.add_argument("--only", choices=WEIGHTS, help="one kind alone")
    parser.add_argument("--plain", action="store_true", help="every case from a seed file itself")
    parser.add_argument("--case", help="try this case alone, and say what becomes of it")
    options = parser.parse_args()
    quiet_libraries()
    Image.init()
    gc.freeze()  # what all forks have in common stays common
    room = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=room, prefix="crispstream-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder))
        if options.case:
            outcome = fuzzer.try_case(options.case, options.keep)
            print(json.dumps(outcome, indent=2))
            return int(is_finding(outcome))
        return _fuzz(fuzzer, options)


def _fuzz(fuzzer: Fuzzer, options: argparse.Namespace) -> int:
    started, index = monotonic(), 0
    findings: dict[str, list[str]] = {}
    answers: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    interesting: list[str] = []
    while index < options.least or monotonic() - started < 60 * options.minutes:
        rng = Random(f"{options.seed}/{index}")
        number = options.seed * 10**9 + index
        begin = fuzzer.draw(rng, options.only)
        case = f"{begin}/{number}"
        if interesting and not options.plain and rng.random() < 0.5:
            case = f"{rng.choice(interesting)}.{number}"
        outcome = fuzzer.try_case(case)
        index += 1
        kinds[fuzzer._kinds[case.rpartition("/")[0]]] += 1
        said = signature(outcome)
        answers[said] += 1
        if is_finding(outcome):
            if said not in findings:
                print(f"{monotonic() - started:.0f} s: {case}: {said}", file=sys.stderr, flush=True)
                if options.keep is not None:
                    fuzzer.try_case(case, options.keep)
            findings.setdefault(said, []).append(case)
        elif answers[said] == 1 and case.count(".") - begin.count(".") < DEEPEST:
            interesting.append(case)
    seconds = monotonic() - started
    summary = {"cases": index, "seconds": round(seconds, 1), "kinds": kinds, "answers": len(answers)}
    shown = {said: {"times": len(cases), "first": cases[:3]} for said, cases in findings.items()}
    print(json.dumps({**summary, "findings": shown}, indent=2))
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
