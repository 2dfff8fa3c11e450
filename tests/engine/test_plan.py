# SPDX-License-Identifier: Apache-2.0
"""The plan cache: what fits is found, and what does not is refused with both sides named."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crispstream import plan as plans
from crispstream.errors import EngineError, OutputError
from crispstream.manifest import PARTS, Manifest, sha256
from crispstream.plan import Gpu, PartPlan, Plan, Profile, find, folder_for, load, plans_folder

ORIN = Gpu("Orin", (8, 7), 8, 12060)
RTX = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 13000)
VERSION = "10.3.0"
HD, SMALL = (1280, 720), (640, 368)
ONE_SIZE = Profile(HD, HD, HD)
RANGE = Profile((320, 192), HD, (1920, 1088))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def store(engine: Manifest, profile: Profile = ONE_SIZE, content: bytes = b"plan of", **changes: Any) -> Plan:
    """Write plans that TensorRT would not know, for ORIN and VERSION unless ``changes`` says otherwise."""
    blobs = {part: content + part.encode() for part in PARTS}
    plan = Plan(
        folder=Path(),
        preset=engine.preset,
        weights=engine.weights.sha256,
        graphs=engine.part_hashes,
        flavour="tensorrt",
        version=VERSION,
        gpu=ORIN,
        capabilities=("sm87",),
        precision="float16",
        profile=profile,
        tensors={name: replace(t, dtype="float16", layout="LINEAR") for name, t in engine.tensors.items()},
        flags=("STRONGLY_TYPED",),
        parts={p: PartPlan(f"{p}-{sha256(b)[:16]}.plan", sha256(b), 1 << 30, 1.5) for p, b in blobs.items()},
    )
    plan = replace(plan, **changes)
    target = plan.gpu or plan.capabilities
    plan = replace(plan, folder=folder_for(engine, plan.flavour, plan.version, target, profile))
    plan.write(blobs)
    return plan


def refusal(
    engine: Manifest, gpu: Gpu = ORIN, size: tuple[int, int] | None = HD, flavour: Any = "tensorrt"
) -> EngineError:
    with pytest.raises(EngineError) as caught:
        find(engine, flavour, VERSION, gpu, size)
    return caught.value


def test_what_is_written_is_read(engine: Manifest) -> None:
    plan = store(engine)
    assert (
        load(plan.folder)
        == plan
        == find(engine, "tensorrt", VERSION, ORIN, HD)
        == find(engine, "tensorrt", VERSION, ORIN)
    )
    assert plan.read("foreground") == b"plan offoreground"
    assert plan.folder.is_relative_to(plans_folder())
    assert plan.folder.name == "tensorrt-10.3.0-orin-sm87-1280x720"


def test_one_size_before_a_range_and_a_narrow_range_before_a_wide_one(engine: Manifest) -> None:
    wide, narrow = store(engine, RANGE), store(engine, Profile((320, 192), SMALL, HD))
    assert find(engine, "tensorrt", VERSION, ORIN, HD) == narrow
    assert find(engine, "tensorrt", VERSION, ORIN, (1920, 1088)) == wide
    exact = store(engine)
    assert find(engine, "tensorrt", VERSION, ORIN, HD) == exact


def test_rtx_plans_fit_every_gpu_that_they_name(engine: Manifest) -> None:
    plan = store(engine, flavour="tensorrt-rtx", gpu=None, capabilities=("sm86", "sm89"))
    assert plan.folder.name == "tensorrt-rtx-10.3.0-sm86+sm89-1280x720"
    for capability, sms, driver in (((8, 9), 128, 13000), ((8, 6), 28, 12060)):
        assert find(engine, "tensorrt-rtx", VERSION, Gpu("any", capability, sms, driver), HD) == plan
    error = refusal(engine, Gpu("Turing", (7, 5), 40, 13000), flavour="tensorrt-rtx")
    assert "was built for sm86 and sm89, here is Turing (sm75, 40 multiprocessors, driver for CUDA 13.0)" in str(error)


def test_nothing_was_built(engine: Manifest) -> None:
    error = refusal(engine)
    wanted = (
        "no TensorRT plan of nano for 1280x720 on Orin (sm87, 8 multiprocessors, driver for CUDA 12.6): none was built"
    )
    assert str(error) == wanted
    assert error.hint == f"type: crispstream build {engine.folder} --size 1280x720 --backend tensorrt"
    assert "--size WIDTHxHEIGHT" in refusal(engine, size=None).hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"gpu": RTX},
            "was built for NVIDIA GeForce RTX 4090 (sm89, 128 multiprocessors, driver for CUDA 13.0), here is Orin",
        ),
        ({"gpu": replace(ORIN, driver_version=12040)}, "driver for CUDA 12.4), here is Orin (sm87, 8 multiprocessors"),
        (
            {"gpu": replace(ORIN, multiprocessors=16)},
            "16 multiprocessors, driver for CUDA 12.6), here is Orin (sm87, 8",
        ),
        ({"version": "10.2.0"}, "was built by TensorRT 10.2.0, here is TensorRT 10.3.0"),
        ({"flavour": "tensorrt-rtx", "gpu": None}, "was built by TensorRT-RTX 10.3.0, here is TensorRT 10.3.0"),
        ({"weights": "f" * 64}, "was built from the weights ffffffffffffffff..., this engine has "),
        ({"graphs": dict.fromkeys(PARTS, "0")}, "was built from other graphs than this engine's"),
    ],
)
def test_plan_of_something_else(engine: Manifest, changes: dict[str, Any], words: str) -> None:
    store(engine, **changes)
    assert words in str(refusal(engine))


def test_frame_larger_than_the_profile(engine: Manifest) -> None:
    store(engine, Profile((320, 192), SMALL, SMALL))
    store(engine, Profile(SMALL, SMALL, SMALL))
    error = refusal(engine)
    assert "the plan for 320x192:640x368:640x368 does not include that size" in str(error)
    assert "the plan for 640x368 does not include that size" in str(error)


def test_many_plans_that_do_not_fit_make_a_short_message(engine: Manifest) -> None:
    for width in range(160, 1600, 160):
        store(engine, Profile((width, 160), (width, 160), (width, 160)))
    assert str(refusal(engine)).count("does not include") == plans.REASONS_SHOWN and str(refusal(engine)).endswith(
        "; ..."
    )


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: b""])
def test_plan_that_is_cut_short_or_changed(engine: Manifest, damage: Any) -> None:
    plan = store(engine)
    path = plan.folder / plan.parts["encoder"].file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EngineError, match=r"encoder-.*\.plan is damaged: its sha256 is .* plan\.json says") as caught:
        plan.read("encoder")
    assert "crispstream build nano" in caught.value.hint


def test_manifest_without_plan(engine: Manifest) -> None:
    plan = store(engine)
    (plan.folder / plan.parts["foreground"].file).unlink()
    with pytest.raises(EngineError, match=r"cannot read .*foreground-.*\.plan: No such file"):
        plan.read("foreground")


def set_field(text: str, *path: str, value: object) -> str:
    fields = inner = json.loads(text)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: "[]", "has schema None, this version reads 1"),
        (lambda text: set_field(text, "schema", value=2), "has schema 2, this version reads 1"),
        (lambda text: text.replace('"weights"', '"heights"'), "has no 'weights'"),
        (lambda text: set_field(text, "parts", "encoder", "file", value="../../engine"), "is not a file name"),
        (lambda text: set_field(text, "parts", "encoder", "sha256", value=None), "'sha256' is not str"),
        (lambda text: set_field(text, "flavour", value="tensorflow"), "unknown flavour"),
        (lambda text: set_field(text, "tensors", "head", "layout", value="CHW32"), "'head' is float16 CHW32"),
        (lambda text: set_field(text, "profile", "maximum", value=[1280]), "'maximum' is not two numbers"),
        (lambda text: set_field(text, "gpu", "name", value=1), "'name' is not str"),
        (lambda text: set_field(text, "flags", value=[1]), "'flags' is not str"),
    ],
)
def test_damaged_manifest_is_a_reason(engine: Manifest, change: Any, words: str) -> None:
    path = store(engine).folder / plans.FILE_NAME
    path.write_text(change(path.read_text()))
    with pytest.raises(EngineError, match=words):
        load(path.parent)
    assert words in str(refusal(engine))


def test_a_new_set_takes_the_place_of_the_old_one(engine: Manifest) -> None:
    old = store(engine)
    (old.folder / "encoder-sm87-12060.kernels").write_bytes(b"compiled for the old plan")
    new = store(engine, content=b"new")
    assert new.folder == old.folder and load(new.folder) == new
    assert {file.name for file in new.folder.iterdir()} == {plans.FILE_NAME, *(p.file for p in new.parts.values())}


def test_an_interrupted_write_leaves_the_old_set(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    old, replace_file = store(engine), Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target.name == plans.FILE_NAME:
            raise KeyboardInterrupt
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        store(engine, content=b"new")
    assert load(old.folder) == old
    assert old.read("encoder") == b"plan ofencoder"


def test_unwritable_cache(engine: Manifest, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(OutputError, match="cannot write") as caught:
        store(engine)
    assert "XDG_CACHE_HOME" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_cache(engine: Manifest) -> None:
    folder = store(engine).folder
    folder.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        store(engine, content=b"new")


def test_the_hint_names_a_shipped_preset_by_its_name(engine: Manifest) -> None:
    from crispstream import manifest

    shipped = manifest.load("nano")
    assert "crispstream build nano --size" in refusal(shipped).hint


def test_a_copied_cache_is_still_good(engine: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(engine)
    shutil.copytree(tmp_path / "cache", tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert find(engine, "tensorrt", VERSION, ORIN, HD).read("encoder") == b"plan ofencoder"
