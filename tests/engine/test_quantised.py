# SPDX-License-Identifier: Apache-2.0
"""INT8 graphs in the cache: when they are used, and every reason why they are not."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crispstream import cpu, quantised
from crispstream.cache import replace_files
from crispstream.engine.select import EngineChoice, open_engine
from crispstream.errors import EngineError, OutputError, UsageError
from crispstream.export.int8 import build_int8
from crispstream.manifest import Manifest, load

VNNI = "model name : A CPU\nflags : sse avx2 avx512_vnni\n"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def built(engine: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the INT8 graphs of ``engine``."""
    folder, cache = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("cache")
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        build_int8(engine.folder, folder, (48, 32))
    return cache


@pytest.fixture
def become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have this /proc/cpuinfo."""

    def change(text: str) -> None:
        monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
        (tmp_path / "cpuinfo").write_text(text)

    return change


@pytest.fixture
def record(
    engine: Manifest, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, become: Callable[[str], None]
) -> Path:
    """``int8.json`` in a cache of its own: good, and measured as twice as fast on a processor with VNNI, which is this
    one."""
    shutil.copytree(built, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    become(VNNI)
    path = quantised.folder_for(engine) / quantised.FILE_NAME
    accuracy = {"gain_db": 0.9, "loss_db": 0.2}
    change(path, lambda fields: fields.update(cpu="A CPU", timing={"speedup": 2.0}, accuracy=accuracy))
    return path


def change(path: Path, what: Change) -> None:
    fields = json.loads(path.read_text())
    what(fields)
    path.write_text(json.dumps(fields))


def test_used_where_it_was_measured_as_faster(engine: Manifest, record: Path) -> None:
    assert quantised.reason_against(engine) == ""
    for device in ("auto", "cpu"):
        assert open_engine(engine.folder, device).name == "onnxruntime-int8"
    assert open_engine(engine.folder, backend="onnxruntime").name == "onnxruntime"


@pytest.mark.parametrize(
    ("cpuinfo", "change_record", "reason"),
    [
        (VNNI, lambda f: f["timing"].update(speedup=0.9), "0.90 times as fast"),
        (VNNI, lambda f: f["timing"].update(speedup=1.0), "1.00 times as fast"),
        (VNNI.replace("A CPU", "B CPU"), lambda f: None, "another processor: A CPU, here is B CPU"),
        (VNNI, lambda f: f.update(onnxruntime="1.0"), "another ONNX Runtime: 1.0, here is"),
        (VNNI, lambda f: f["accuracy"].update(loss_db=0.8), "INT8 gains 0.10 dB, FP32 0.90 dB"),
        (VNNI, lambda f: f["accuracy"].update(gain_db=-0.1, loss_db=0.0), "INT8 gains -0.10 dB"),
    ],
)
def test_built_but_not_chosen(
    engine: Manifest,
    record: Path,
    become: Callable[[str], None],
    cpuinfo: str,
    change_record: Change,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    become(cpuinfo)
    change(record, change_record)
    assert reason in quantised.reason_against(engine)
    assert open_engine(engine.folder).name == "onnxruntime"
    assert not caplog.records, "a choice that nobody asked for needs no words"
    assert open_engine(engine.folder, backend="onnxruntime-int8").name == "onnxruntime-int8"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx_vnni\nflags\t: fpu\n", ("avx_vnni",)),
        ("Features\t: fp asimd asimddp\n", ("asimddp",)),
        ("Features\t: fp asimd\nflags_of_it: avx_vnni\n", ()),
    ],
)
def test_instructions(become: Callable[[str], None], text: str, found: tuple[str, ...]) -> None:
    become(text)
    assert cpu.int8_instructions() == found


def test_a_processor_without_a_name(become: Callable[[str], None]) -> None:
    become("Features : asimddp\nCPU part : 0xd0c\n")
    assert cpu.model().endswith(" 0xd0c")


def damaged_graph(record: Path) -> None:
    path = next(record.parent.glob("encoder-*.onnx"))
    path.write_bytes(path.read_bytes()[:-1])


REFUSED = [
    (lambda r: shutil.rmtree(r.parent), "no INT8 graphs of nano were built"),
    (lambda r: r.write_text("{"), "is damaged: "),
    (lambda r: r.write_text("[]"), "has schema None, this version reads 2"),
    (lambda r: change(r, lambda f: f.update(schema=1)), "has schema 1, this version reads 2"),
    (lambda r: change(r, lambda f: f.pop("cpu")), "has no 'cpu'"),
    (lambda r: change(r, lambda f: f["timing"].pop("speedup")), "has no 'speedup'"),
    (lambda r: change(r, lambda f: f["accuracy"].pop("loss_db")), "has no 'loss_db'"),
    (lambda r: change(r, lambda f: f.update(timing=[])), "'timing' is not dict"),
    (lambda r: change(r, lambda f: f["parts"]["encoder"].update(file="../x")), "'../x' is not a file name"),
    (lambda r: change(r, lambda f: f.update(weights="0" * 64)), "made from the weights 0000"),
    (lambda r: next(r.parent.glob("background-*.onnx")).unlink(), "cannot read .*background"),
    (damaged_graph, "encoder-.* is damaged: its sha256"),
]


@pytest.mark.parametrize(("damage", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_pinned_fails_loudly_and_auto_goes_on(
    engine: Manifest, record: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(record)
    assert re.search(words, quantised.describe(engine)["error"])
    with pytest.raises(EngineError, match=words) as caught:
        open_engine(engine.folder, backend="onnxruntime-int8")
    assert caught.value.hint == f"type: crispstream build {engine.folder} --backend onnxruntime-int8"
    assert open_engine(engine.folder).name == "onnxruntime"


def test_a_shipped_preset_is_named_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError) as caught:
        quantised.load(load("nano"))
    assert caught.value.hint == "type: crispstream build nano --backend onnxruntime-int8"


def test_graphs_that_onnxruntime_refuses(engine: Manifest, record: Path) -> None:
    """Whole by their hash and chosen, but no graph: the next engine is used."""
    made = quantised.load(engine)
    part = quantised.part_file("encoder", b"not a graph")
    replace(made, parts={**made.parts, "encoder": part}).write(
        {p: b"not a graph" if p == "encoder" else made.path(p).read_bytes() for p in made.parts}
    )
    assert quantised.reason_against(engine) == ""
    assert open_engine(engine.folder).name == "onnxruntime"
    with pytest.raises(EngineError, match=r"ONNX Runtime .* cannot load"):
        open_engine(engine.folder, backend="onnxruntime-int8")


def test_only_the_cpu(engine: Manifest, record: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime-int8 runs on the CPU, not on cuda"):
        EngineChoice(engine.folder, "cuda", "onnxruntime-int8")


def test_a_new_set_replaces_the_old_one(engine: Manifest, record: Path) -> None:
    made = quantised.load(engine)
    graphs = {part: part.encode() for part in made.parts}
    parts = {part: quantised.part_file(part, graph) for part, graph in graphs.items()}
    replace(made, parts=parts).write(graphs)
    assert quantised.load(engine).parts == parts
    assert sorted(p.name for p in record.parent.iterdir()) == sorted([record.name, *(f.file for f in parts.values())])


def test_two_builds_at_once_leave_one_whole_set(tmp_path: Path) -> None:
    """The second comes while the first is between two files: it waits, and clears up nothing that still counts."""
    folder = tmp_path / "nano-1"
    second = threading.Thread(target=replace_files, args=(folder, {"b1": b"", "b2": b"", "index": b"b"}))

    class Slow(dict[str, bytes]):
        def items(self) -> Any:
            yield "a1", b""
            second.start()
            second.join(0.3)
            yield from (("a2", b""), ("index", b"a"))

    replace_files(folder, Slow({"a1": b"", "a2": b"", "index": b"a"}))
    second.join()
    assert sorted(p.name for p in folder.iterdir()) == ["b1", "b2", "index"] and (folder / "index").read_bytes() == b"b"


def test_a_cache_that_cannot_be_written(engine: Manifest, record: Path, tmp_path: Path) -> None:
    made = quantised.load(engine)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        replace(made, folder=tmp_path / "file" / "int8").write({})
