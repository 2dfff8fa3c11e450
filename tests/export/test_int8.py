# SPDX-License-Identifier: Apache-2.0
"""INT8 graphs by real quantisation: close to FP32, laid out for 8-bit kernels, built and reported by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from crispstream import quantised
from crispstream.engine.int8 import Int8Engine
from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.engine.protocol import Array
from crispstream.errors import EngineError, InputError
from crispstream.export.int8 import build_int8
from crispstream.export.int8_frames import COUNT, calibration_frames
from crispstream.export.int8_graph import quantise
from crispstream.export.int8_rounding import LARGEST, neighbourhoods, round_weights
from crispstream.frame import Frame, PixelFormat
from crispstream.kernels import bindings
from crispstream.manifest import PARTS, Manifest, load
from crispstream.runners.protocol import geometry_of

SIZE = (96, 64)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Array:
    """(H, W, 3) uint8: soft blobs with edges, as pictures have and noise has not."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    large = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.uint8).copy()
    large[10:30, 10 : 40 + seed] = random.integers(0, 256, 3)
    return large


def unpacked(engine: Manifest, seed: int) -> Array:
    """``picture`` as the network's input."""
    packed = np.empty(geometry_of(engine, SIZE).packed_shape, np.float32)
    bindings.unpack(Frame.from_array(picture(seed), PixelFormat.RGB24), geometry_of(engine, SIZE), packed)
    return packed


@pytest.fixture(scope="module")
def packed(engine: Manifest) -> list[Array]:
    return [unpacked(engine, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def graphs(engine: Manifest, packed: list[Array]) -> dict[str, bytes]:
    return quantise(engine, packed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures."""
    made = tmp_path / "pictures"
    made.mkdir()
    for seed in range(6):
        Image.fromarray(picture(seed)).save(made / f"{seed}.png")
    return made


def test_close_to_float32(engine: Manifest, folder: Path) -> None:
    """Of a picture that showed no ranges; untrained weights, so that activations spread wider than trained ones."""
    build_int8(engine.folder, folder, SIZE)
    geometry = geometry_of(engine, SIZE)
    sessions = [
        OnnxRuntimeEngine(engine, 1).session(geometry),
        Int8Engine(engine, quantised.load(engine), 1).session(geometry),
    ]
    for session in sessions:
        session.packed[:] = unpacked(engine, 9)
        session.run()
    for name in ("head", "foreground", "background"):
        full, found = (getattr(session, name) for session in sessions)
        assert found.dtype == np.float32 and found.shape == full.shape
        scale = float(full.max() - full.min())
        errors = np.abs(found - full) / scale
        # A few values lie outside the range that was shown, and are clipped.
        assert 0 < errors.mean() < 0.03 and np.percentile(errors, 99) < 0.1, (name, np.percentile(errors, 99))


def test_every_convolution_is_8_bit_and_no_layout_changes_between(
    engine: Manifest, graphs: dict[str, bytes], tmp_path: Path
) -> None:
    """What ONNX Runtime makes of the graphs: each thing that falls back to FP32 or is transposed costs time."""
    for part, graph in graphs.items():
        (tmp_path / f"{part}.onnx").write_bytes(graph)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        for name, size in (("height", 64), ("width", 96)):
            for step in (2, 4, 8):
                options.add_free_dimension_override_by_name(f"{name}_{step}", size // step)
        onnxruntime.InferenceSession(str(tmp_path / f"{part}.onnx"), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        operators = [node.op_type for node in nodes]
        assert "Conv" not in operators and "Resize" not in operators
        assert operators.count("QLinearConv") == len(
            [
                n
                for n in onnx.load(engine.path(part)).graph.node
                if n.op_type == "Conv" and not n.name.endswith(".blocked")
            ]
        )
        # In: packed. Out: the head, or the residual.
        assert operators.count("Transpose") <= (2 if part == "encoder" else 1), operators
        assert operators.count("QuantizeLinear") == (part == "encoder") and operators.count("DequantizeLinear") == 1


def boundary_steps(graphs: dict[str, bytes]) -> dict[str, tuple[set[float], set[int]]]:
    """Steps and zero points by which each feature's codes are read, on both sides."""
    found: dict[str, tuple[set[float], set[int]]] = {}
    for graph in graphs.values():
        model = onnx.load_from_string(graph)
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        turned = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "Transpose"}
        turned |= {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Transpose"}
        for name in ("features0", "features1", "features2"):
            readers = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == turned[name]]
            assert readers
            steps, zeros = found.setdefault(name, (set(), set()))
            steps.update(round(float(values[n.input[1]]), 6) for n in readers)
            zeros.update(int(values[n.input[2]]) for n in readers)
    return found


def test_both_sides_of_a_boundary_have_one_step(graphs: dict[str, bytes]) -> None:
    """The encoder hands out codes: a branch must take them for the same values."""
    for name, (steps, zeros) in boundary_steps(graphs).items():
        assert max(steps) / min(steps) < 1.0001, (name, steps)
        assert zeros == {0}, "after ReLU, 0 is code 0"


def test_pixels_are_taken_as_they_are(graphs: dict[str, bytes]) -> None:
    model = onnx.load_from_string(graphs["encoder"])
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (first,) = [node for node in model.graph.node if "packed" in node.input]
    assert first.op_type == "QuantizeLinear"
    assert values[first.input[1]] == np.float32(1 / 255) and values[first.input[2]] == 0


def test_weights_have_seven_bits(graphs: dict[str, bytes]) -> None:
    """With eight, x86-64 without VNNI saturates."""
    for graph in graphs.values():
        weights = [t for t in onnx.load_from_string(graph).graph.initializer if len(t.dims) == 4]
        assert weights and all(t.data_type == onnx.TensorProto.INT8 for t in weights)
        assert max(np.abs(numpy_helper.to_array(t).astype(int)).max() for t in weights) == LARGEST


@pytest.mark.parametrize("made", ["small", "base"], indirect=True)
def test_other_presets(made: Manifest) -> None:
    random = np.random.default_rng(0)
    shape = geometry_of(made, SIZE).packed_shape
    graphs = quantise(made, [random.random(shape, np.float32)])
    assert set(graphs) == set(PARTS)
    for name, (steps, zeros) in boundary_steps(graphs).items():
        assert max(steps) / min(steps) < 1.0001 and len(zeros) == 1, (name, steps, zeros)
    assert boundary_steps(graphs)["features0"][1] != {0}, "the end of a block, which may be negative"


def test_rounding_makes_up_for_what_it_changes(packed: list[Array]) -> None:
    """Small differences of bright pixels: plain rounding lets the brightness through, this does not."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, packed[0].shape[1], 3, 3)).astype(np.float32)
    weight -= weight.mean((1, 2, 3), keepdims=True)
    moments = neighbourhoods(packed)
    rounded, steps = round_weights(weight, moments)

    def error(found: Array) -> float:
        off = (found - weight).reshape(len(weight), -1)
        return float(np.einsum("oi,ij,oj->", off, moments, off))

    plain = (np.rint(weight / steps[:, None, None, None]) * steps[:, None, None, None]).astype(np.float32)
    assert error(rounded) < 0.2 * error(plain)
    codes = rounded / steps[:, None, None, None]
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert np.abs(codes).max() <= LARGEST + 1e-3


@pytest.mark.parametrize("level", [0, 0.5])
def test_rounding_for_frames_that_show_nothing(packed: list[Array], level: float) -> None:
    weight = np.random.default_rng(0).normal(size=(2, packed[0].shape[1], 3, 3)).astype(np.float32)
    rounded, steps = round_weights(weight, neighbourhoods([np.full_like(packed[0], level)]))
    assert np.isfinite(rounded).all() and (steps > 0).all() and rounded.any()


@pytest.mark.parametrize("level", [0, 128])
def test_flat_frames_show_no_ranges(tmp_path: Path, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs made from them would restore nothing, and be fast at it."""
    monkeypatch.setattr("crispstream.export.int8.portrait", lambda count: [])
    for i in range(2):
        Image.new("RGB", SIZE, (level, level, level)).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match="shows nothing that could be restored") as caught:
        build_int8("nano", tmp_path, SIZE)
    assert "as your camera sees" in caught.value.hint


def test_frames_that_show_little_are_judged_by_those_that_we_draw(tmp_path: Path) -> None:
    """Faint noise passes for content; with its ranges little is restored of a portrait."""
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install scikit-image)")
    for i in range(2):
        faint = np.random.default_rng(i).integers(120, 136, (64, 96, 3), np.uint8)
        Image.fromarray(faint).save(tmp_path / f"{i}.png")
    report = build_int8("nano", tmp_path, SIZE)
    assert report["accuracy"]["gain_db"] > 0.5 and report["accuracy"]["loss_db"] > 0.3
    made = replace(quantised.load(load("nano")), timing={**report["timing"], "speedup": 2.0})
    made.write({part: made.path(part).read_bytes() for part in PARTS})
    assert "on frames that we draw INT8 gains" in quantised.reason_against(load("nano"))


def test_rounding_of_an_output_that_is_always_zero(packed: list[Array]) -> None:
    weight = np.zeros((2, packed[0].shape[1], 3, 3), np.float32)
    rounded, steps = round_weights(weight, neighbourhoods(packed))
    assert not rounded.any() and (steps > 0).all()


def test_without_torch() -> None:
    """Whoever builds on a small machine has onnx, and need not have PyTorch."""
    code = "import sys; sys.modules['torch'] = None; import crispstream.export.int8"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_report_and_cache(engine: Manifest, folder: Path) -> None:
    report = build_int8(engine.folder, folder, SIZE)
    made = quantised.load(engine)
    assert report["folder"] == str(made.folder) == str(quantised.folder_for(engine))
    assert report["calibration"] == {"source": "pictures", "frames": 5}
    assert report["accuracy"]["frames"] == 1 and report["accuracy"]["psnr_to_float32"] > 34
    assert {"gain_db", "loss_db"} < set(report["accuracy"]), "of drawn frames: nobody knows the truth of these pictures"
    assert report["timing"]["size"] == "96x64" and report["timing"]["float32_ms"] > 0 < report["timing"]["int8_ms"]
    assert report["timing"]["speedup"] == report["timing"]["float32_ms"] / report["timing"]["int8_ms"]
    assert report["reason_against"] == quantised.reason_against(engine)
    assert made.summary() == {name: report[name] for name in made.summary()}
    assert made.weights == engine.weights.sha256


def test_frames_that_we_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install scikit-image)")
    monkeypatch.setattr("crispstream.export.int8_frames.COUNT", 5)
    found = calibration_frames(None)
    assert (len(found.shown), len(found.aside)) == (4, 1) and found.source.startswith("drawn")
    for frame, truth in found.aside:
        assert truth is not None and (truth.planes[0] != frame.planes[0]).any()


def test_frames_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(EngineError, match="drawing frames needs skimage") as caught:
        calibration_frames(None)
    assert caught.value.hint == "pip install scikit-image"


def test_frames_of_a_folder_are_spread(tmp_path: Path) -> None:
    for i in range(2 * COUNT + 1):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i:03}.png")
    found = calibration_frames(tmp_path)
    values = sorted(int(f.planes[0][0, 0, 0]) for f in (*found.shown, *(frame for frame, _ in found.aside)))
    assert values == list(range(0, 2 * COUNT, 2)) and len(found.aside) == COUNT // 5


def test_frames_of_a_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(50):
            data = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 5 * i, np.uint8), format="rgb24")
            file.mux(stream.encode(data))
        file.mux(stream.encode(None))
    found = calibration_frames(path)
    assert len(found.shown) == 16 and len(found.aside) == 4 and found.source == "clip.mkv"
    brightness = [int(frame.planes[0].mean()) for frame in found.shown]
    assert brightness == sorted(set(brightness)), "different frames, in order"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "does not exist"),
        ("one/0.png", "is one picture"),
        ("one", "gives 1 frame"),
        ("empty", "holds no picture"),
        ("text.mp4", "is not a video"),
    ],
)
def test_frames_that_do_not_do(tmp_path: Path, name: str, words: str) -> None:
    for made in ("one", "empty"):
        (tmp_path / made).mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "one" / "0.png")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(InputError, match=words):
        calibration_frames(tmp_path / name)


def crispstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "crispstream.cli", *arguments], capture_output=True, text=True)


def test_command(engine: Manifest, folder: Path) -> None:
    words = (
        "build",
        str(engine.folder),
        "--backend",
        "onnxruntime-int8",
        "--calibrate",
        str(folder),
        "--size",
        "96x64",
    )
    done = crispstream(*words, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["preset"] == "nano" and report["backend"] == "onnxruntime-int8"
    said = crispstream(*words).stdout
    assert "5 frames of pictures" in said and "dB from FP32" in said and "times as fast" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--backend", "onnxruntime-int8", "--target", "sm89"), "for this CPU and every size"),
        (("--backend", "onnxruntime-int8", "--dynamic", "1x1:2x2:3x3"), "for this CPU and every size"),
        (("--backend", "onnxruntime-int8", "--size", "64x64", "--size", "32x32"), "for this CPU and every size"),
        (("--backend", "onnxruntime-int8", "--device", "cuda:1"), "for this CPU and every size"),
        (("--backend", "onnxruntime-int8", "--size", "x"), "'x' is not a frame size"),
        (("--size", "64x64", "--calibrate", "folder"), "--calibrate is for INT8 graphs"),
    ],
)
def test_command_refuses(words: tuple[str, ...], message: str) -> None:
    done = crispstream("build", "nano", *words)
    assert done.returncode == 2 and message in done.stderr
