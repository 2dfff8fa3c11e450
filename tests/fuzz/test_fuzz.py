# SPDX-License-Identifier: Apache-2.0
"""Three quarters of a minute of fuzzing, always the same cases; and the fuzzer notices what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from elements import elements, size_code
from fuzz import is_finding
from mutate import mutated
from notes import mutated_json
from workers import attempt


@pytest.mark.timeout(900)  # where the machine is busy the least number of cases takes longer
def test_three_quarters_of_a_minute() -> None:
    fuzz = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(fuzz), "--minutes", "0.75", "--least", "40", "--seed", "1", "--plain"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (done.returncode, found["findings"]) == (0, {}), done.stderr
    assert found["cases"] >= 40 and found["answers"] > 10  # 160 cases on two idle cores


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png", "a.ts", "a.y4m", "a.bin"])
def test_the_same_numbers_make_the_same_file(name: str) -> None:
    data = Random(1).randbytes(3000)
    made = [mutated(name, data, Random(7)) for _ in range(2)]
    assert made[0] == made[1] != data
    assert len({mutated(name, data, Random(i)) for i in range(50)}) > 40
    for i in range(200):  # whatever is left of a file can be mutated again
        data = mutated(name, data, Random(i), lambda: b"another")


def test_elements_of_boxes_and_of_ebml() -> None:
    inner = b"\0\0\0\x0cmdhdabcd"
    boxes = b"\0\0\0\x08free" + (len(inner) + 8).to_bytes(4, "big") + b"mdia" + inner
    found = elements("a.mp4", boxes)
    assert [(e.start, e.body, e.end, len(e.parents)) for e in found] == [(0, 8, 8, 0), (8, 16, 28, 0), (16, 24, 28, 1)]
    assert size_code(found[1], 20) == b"\0\0\0\x14" and size_code(found[1], 2**32) == bytes(4)
    info = elements("a.mkv", b"\x1a\x45\xdf\xa3\x84\x42\x86\x81\x01")
    assert [(e.start, e.body, e.end, len(e.parents)) for e in info] == [(0, 5, 9, 0), (5, 8, 9, 1)]
    assert size_code(info[0], 4) == b"\x84"


def test_json_is_damaged_in_many_ways() -> None:
    text = json.dumps({"a": [1, {"b": "c"}], "d": 2.5})
    made = {mutated_json(text, Random(i)) for i in range(300)}
    assert len(made) > 150 and made == {mutated_json(text, Random(i)) for i in range(300)}
    assert any(m.count(b'"a":') == 2 for m in made) and any(b"NaN" in m for m in made)


def test_whatever_happens_to_a_process_is_an_outcome(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    endings = {
        "returned": lambda: "said",
        "raised": lambda: bytearray(1 << 40),  # more memory than it may have
        "signal": lambda: os.abort(),
        "hang": lambda: time.sleep(60),
    }
    for end, action in endings.items():
        outcome = attempt(action, folder, 1 if end == "hang" else 30)
        assert outcome["end"] == end and is_finding(outcome) == (end != "returned")
    assert is_finding(attempt(lambda: os.write(2, b"noise"), folder, 30))
    assert os.listdir(tmp_path) == ["case"]
