# SPDX-License-Identifier: Apache-2.0
"""A manifest loads whole or is refused with one clear line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crispstream import manifest
from crispstream.errors import EngineError, UsageError
from crispstream.manifest import PARTS, Manifest, load, sha256

Fields = dict[str, Any]


@pytest.fixture
def folder(engine: Manifest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine.folder, tmp_path / "nano"))


def edit(folder: Path, change: Callable[[Fields], object]) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def replace_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the weights and make the manifest's hash fit."""
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    edit(folder, lambda fields: fields["weights"].update(sha256=sha256(path.read_bytes())))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(EngineError) as caught:
        load(folder)
    for word in (*words, str(folder)):
        assert word in str(caught.value)
    assert f"python -m crispstream.export nano --weights WEIGHTS.safetensors --output {folder}" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_load_gives_what_was_written(engine: Manifest) -> None:
    assert load(engine.folder) == engine
    assert load(str(engine.folder)) == engine
    assert (engine.pack, engine.multiple, engine.map_stride) == (2, 16, 8)
    assert engine.path("encoder").is_file() and engine.weights_path.is_file()


def test_named_dimensions(engine: Manifest) -> None:
    sizes = {name: tensor.sizes(656, 368) for name, tensor in engine.tensors.items()}
    assert sizes["packed"] == sizes["residual"] == (1, 12, 184, 328)
    assert sizes["head"] == (1, 2, 46, 82)
    assert sizes["features2"] == (1, 64, 46, 82)


def test_summary_is_plain(engine: Manifest) -> None:
    summary = json.loads(json.dumps(engine.summary()))
    assert summary["parameters"] == 337_346
    assert summary["macs_per_pixel"]["all"] <= 8_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", ["is damaged"], id="empty"),
        pytest.param('{"schema": 2, "pre', ["is damaged"], id="truncated"),
        pytest.param("[]", ["schema None", "reads 2"], id="not an object"),
        pytest.param('{"schema": NaN}', ["NaN is not a number"], id="NaN"),
        pytest.param('{"schema": 3}', ["schema 3", "reads 2"], id="newer"),
        pytest.param('{"schema": 2}', ["'pack'"], id="nothing else"),
        pytest.param("\x00\xff", ["is damaged"], id="binary"),
    ],
)
def test_damaged_json(folder: Path, text: str, words: list[str]) -> None:
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(folder, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("weights"), ["has no 'weights'"]),
        (lambda f: f["graphs"].pop("background"), ["has no 'background'"]),
        (lambda f: f["tensors"].pop("head"), ["has no 'head'"]),
        (lambda f: f.update(pack="4"), ["'pack' is not int"]),
        (lambda f: f.update(multiple=0), ["do not fit together"]),
        (lambda f: f.update(multiple=18), ["do not fit together"]),
        (lambda f: f["graphs"]["encoder"].update(file="../encoder.onnx"), ["not a file name"]),
        (lambda f: f.update(preset="foo"), ["unknown preset 'foo'"]),
        (lambda f: f.pop("receptive_radius"), ["has no 'receptive_radius'"]),
        (lambda f: f.update(receptive_radius=16), ["'receptive_radius' is 16", "sees 115 pixels far"]),
        (lambda f: f.update(map_stride=16), ["'head' has shape", "'height_16'"]),
        (lambda f: f.update(pack=4), ["'packed' has shape", "(1, 48, 'height_4', 'width_4')"]),
        (lambda f: f["tensors"]["residual"]["shape"].__setitem__(1, 3), ["'residual' has shape"]),
        (lambda f: f["tensors"]["head"].update(shape=[1, 2, "rows", "columns"]), ["'head'", '"rows"']),
        (lambda f: f["tensors"]["features0"]["shape"].__setitem__(2, "height_0"), ["'features0'", '"height_0"']),
        (lambda f: f["tensors"]["features2"]["shape"].__setitem__(2, "height_32"), ["'features2'", '"height_32"']),
        (lambda f: f["tensors"]["features1"]["shape"].__setitem__(1, 0), ["'features1'", "dimension 0"]),
        (lambda f: f["tensors"]["features1"]["shape"].__setitem__(1, True), ["'features1'", "dimension true"]),
        (lambda f: f["tensors"]["features1"]["shape"].__setitem__(1, [64]), ["'features1'", "dimension [64]"]),
        (lambda f: f["tensors"]["head"].update(dtype="banana"), ["'head' has dtype 'banana'"]),
        (lambda f: f["tensors"]["head"].update(dtype="float16"), ["'head' has dtype 'float16'"]),
        (lambda f: f["macs_per_pixel"].update(encoder="many"), ["'macs_per_pixel'", '"many"']),
        (lambda f: f["macs_per_pixel"].update(encoder=True), ["'macs_per_pixel'", "true"]),
        (lambda f: f["macs_per_pixel"].update(encoder=10**400), ["is damaged"]),
        (lambda f: f["macs_per_pixel"].pop("encoder"), ["has no 'encoder'"]),
    ],
)
def test_damaged_fields(folder: Path, change: Callable[[Fields], object], words: list[str]) -> None:
    edit(folder, change)
    refused(folder, *words)


def test_graphs_that_a_preset_needs_and_others(folder: Path, whole_branches: Manifest, tmp_path: Path) -> None:
    copy = shutil.copytree(whole_branches.folder, tmp_path / "whole")
    edit(copy, lambda fields: fields["graphs"].update(foreground_factors={"file": "none", "sha256": ""}))
    assert set(load(copy).graphs) == set(PARTS), "what has no use is not looked for"
    edit(folder, lambda fields: fields["graphs"].pop("foreground_factors"))
    refused(folder, "has no 'foreground_factors'")


def test_missing_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    refused(folder, "cannot read", "manifest.json")


@pytest.mark.parametrize("name", ["encoder.onnx", "foreground.onnx", "background_factors.onnx", "weights.safetensors"])
def test_changed_files(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    recorded = json.loads((folder / "manifest.json").read_text())
    expected = (recorded["graphs"].get(name.removesuffix(".onnx")) or recorded["weights"])["sha256"]
    refused(folder, name, sha256(bytes(data))[:16], expected[:16])
    (folder / name).unlink()
    refused(folder, "cannot read", name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    replace_weights(folder, lambda tensors: tensors["encoder.stem.bias"].__setitem__(3, value))
    refused(folder, "encoder.stem.bias", "not finite")


def test_truncated_weights_with_a_fitting_hash(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    edit(folder, lambda fields: fields["weights"].update(sha256=sha256(path.read_bytes())))
    refused(folder, "is damaged")


def test_a_number_too_large_for_json_readers(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(re.sub(r'"encoder": [\d.]+', '"encoder": 1e999', path.read_text()))
    refused(folder, "'macs_per_pixel'")


def test_weights_of_a_dtype_that_numpy_lacks(folder: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (folder / "weights.safetensors").write_bytes(data)
    edit(folder, lambda fields: fields["weights"].update(sha256=sha256(data)))
    refused(folder, "weights.safetensors", "is damaged", "BF16")


def test_weights_of_another_size(folder: Path) -> None:
    replace_weights(folder, lambda tensors: tensors.pop("encoder.stem.weight"))
    refused(folder, "parameters", "its manifest says 337346")


@pytest.mark.parametrize("name", ["gigantic", "", "__pycache__"])
def test_unknown_preset(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that lie beside the shipped engines, their own among them, are no presets."""
    monkeypatch.setattr(manifest, "_shipped", lambda: folder.parent)
    (folder.parent / "__pycache__").mkdir()
    with pytest.raises(UsageError, match=f"unknown preset '{name}'") as caught:
        load(name)
    assert "nano" in caught.value.hint


def test_known_preset_that_is_not_shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_shipped", lambda: folder.parent)
    assert manifest.available_presets() == ["nano"]
    assert load("nano").folder == folder
    with pytest.raises(EngineError, match="'base' is known, but its weights are not shipped yet; shipped: nano"):
        load("base")
