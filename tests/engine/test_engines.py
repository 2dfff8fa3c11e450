# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime and PyTorch behind one protocol, compared with the network itself."""

from __future__ import annotations

import contextlib
import ctypes
import math
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file, save_file

from crispstream.engine.onnxruntime import OnnxRuntimeEngine
from crispstream.engine.protocol import Engine, EngineSession
from crispstream.engine.select import open_engine
from crispstream.engine.torch import TorchEngine, TorchGpuEngine, TorchParts
from crispstream.errors import EngineError
from crispstream.kernels.geometry import Geometry
from crispstream.manifest import Manifest, load
from crispstream.model.presets import preset
from crispstream.model.weights import load_network

Array = npt.NDArray[Any]
OPENERS = {"onnxruntime": OnnxRuntimeEngine, "torch": TorchEngine}


@pytest.fixture(params=list(OPENERS))
def opened(request: pytest.FixtureRequest, engine: Manifest) -> Engine:
    found: Engine = OPENERS[request.param](engine, threads=1)
    assert found.name == request.param
    return found


def geometry(width: int, height: int) -> Geometry:
    return Geometry.for_size(width, height, pack=2, multiple=16, map_stride=8)


def session_with_noise(opened: Engine, width: int, height: int) -> EngineSession:
    session = opened.session(geometry(width, height))
    session.packed[:] = np.random.default_rng(width).random(session.packed.shape, np.float32)
    return session


@torch.no_grad()
def expected(engine: Manifest, packed: Array) -> tuple[Array, Array, Array]:
    net = load_network(preset(engine.preset), engine.weights_path)
    *features, head = net.encoder(torch.from_numpy(packed))
    return head.numpy(), net.foreground(*features).numpy(), net.background(*features).numpy()


def assert_right(session: EngineSession, engine: Manifest) -> None:
    for found, right in zip(
        (session.head, session.foreground, session.background), expected(engine, session.packed), strict=True
    ):
        assert found is not None
        np.testing.assert_allclose(found, right, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (33, 17), (160, 90), (90, 161)])
def test_same_as_the_network(opened: Engine, engine: Manifest, width: int, height: int) -> None:
    session = session_with_noise(opened, width, height)
    assert session.packed.shape == geometry(width, height).packed_shape
    assert session.head.shape == geometry(width, height).head_shape
    session.run()
    assert_right(session, engine)
    assert session.head.min() >= 0 and session.head.max() <= 1


@pytest.mark.parametrize("kind", OPENERS)
def test_branches_without_a_last_step_of_our_own(kind: str, whole_branches: Manifest) -> None:
    session = session_with_noise(OPENERS[kind](whole_branches, threads=1), 90, 161)
    session.run()
    assert_right(session, whole_branches)


def test_left_out_branches(opened: Engine, engine: Manifest) -> None:
    session = session_with_noise(opened, 48, 32)
    head, foreground, background = expected(engine, session.packed)
    session.run(foreground=False, background=True)
    assert session.foreground is None and session.background is not None
    np.testing.assert_allclose(session.background, background, rtol=0, atol=2e-4)
    assert list(session.seconds) == ["encoder", "background"]
    session.run(foreground=True, background=False)
    assert session.background is None and session.foreground is not None
    np.testing.assert_allclose(session.foreground, foreground, rtol=0, atol=2e-4)
    session.run(foreground=False, background=False)
    assert session.foreground is None and session.background is None
    np.testing.assert_allclose(session.head, head, rtol=0, atol=2e-4)
    assert list(session.seconds) == ["encoder"] and session.seconds["encoder"] > 0


def test_memory_is_kept(opened: Engine, engine: Manifest) -> None:
    """The caller's arrays stay the same ones, run after run, and new input gives new output."""
    session = session_with_noise(opened, 48, 32)
    session.run()
    before = [a for a in (session.packed, session.head, session.foreground, session.background) if a is not None]
    session.packed[:] = 1 - session.packed
    session.run()
    after = [a for a in (session.packed, session.head, session.foreground, session.background) if a is not None]
    assert len(before) == 4 and all(a is b for a, b in zip(before, after, strict=True))
    assert_right(session, engine)


def test_sessions_of_two_sizes_in_turn(opened: Engine, engine: Manifest) -> None:
    first, second = session_with_noise(opened, 48, 32), session_with_noise(opened, 64, 80)
    third = session_with_noise(opened, 64, 80)
    third.packed[:] = 0.25
    for _ in range(2):
        for session in (first, second, third):
            session.run()
    for session in (first, second, third):
        assert_right(session, engine)


def test_size_that_is_not_padded(opened: Engine) -> None:
    with pytest.raises(EngineError, match="40x32 is not padded to a multiple of 16"):
        opened.session(replace(geometry(48, 32), padded_width=40))


def test_closed(opened: Engine) -> None:
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened.session(geometry(16, 16))


def test_folder_of_links(engine: Manifest, tmp_path: Path) -> None:
    """Package managers and model hubs install links into their store, each file in a folder of its own."""
    (tmp_path / "links").mkdir()
    for path in engine.folder.iterdir():
        (tmp_path / path.stem).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.stem / "blob")
        (tmp_path / "links" / path.name).symlink_to(tmp_path / path.stem / "blob")
    session = session_with_noise(OnnxRuntimeEngine(load(tmp_path / "links")), 48, 32)
    session.run()
    assert_right(session, engine)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("foreground.out.weight"),
        lambda weights: weights.update({"background.out.bias": weights["foreground.out.bias"][:5]}),
    ],
)
def test_weights_without_the_end_of_a_branch(
    engine: Manifest, tmp_path: Path, change: Callable[[dict[str, Array]], object]
) -> None:
    """Hashes can be right and names or shapes wrong: the next engine is asked, nothing fails at the first frame."""
    folder = Path(shutil.copytree(engine.folder, tmp_path / "engine"))
    weights = load_file(engine.weights_path)
    change(weights)
    save_file(weights, folder / engine.weights.file)
    with pytest.raises(EngineError, match=r"ground\.out of 32 to 12 channels"):
        OnnxRuntimeEngine(replace(engine, folder=folder))


def test_threads_do_not_change_the_result(engine: Manifest) -> None:
    results = []
    for threads in (1, 2):
        session = session_with_noise(OnnxRuntimeEngine(engine, threads), 64, 48)
        session.run()
        assert session.foreground is not None
        results.append(session.foreground)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-6)


def test_no_cuda(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="finds no CUDA device"):
        TorchGpuEngine(engine, 0)


@pytest.mark.parametrize("name", OPENERS)
def test_ctrl_c_during_an_import_is_not_a_missing_engine(
    engine: Manifest, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extension modules report whatever happens while they are imported as an ImportError."""

    class PressedHere(MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> None:
            if fullname == module:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                raise ImportError("numpy.core.multiarray failed to import")

    module = f"crispstream.engine.{name}"
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [PressedHere(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt):
        open_engine(engine.folder, backend=name)
    assert signal.getsignal(signal.SIGINT) is before


def test_parts_of_the_gpu_engine(engine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, without streams: the same tensors at the same addresses, as ``model.half()`` computes them."""
    monkeypatch.setattr("crispstream.engine.torch._external", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    net = load_network(preset("nano"), engine.weights_path).half()
    parts = TorchParts(engine, geometry(48, 32), net, torch.device("cpu"))
    packed = np.random.default_rng(0).random(geometry(48, 32).packed_shape).astype(np.float16)

    def at(address: int, shape: tuple[int, ...]) -> Array:
        return np.frombuffer((ctypes.c_uint8 * (2 * math.prod(shape))).from_address(address), np.float16).reshape(shape)

    at(parts.packed, packed.shape)[:] = packed
    for part in ("encoder", "foreground", "background"):
        parts.enqueue(part, 0)
    with torch.no_grad():
        *features, head = net.encoder(torch.from_numpy(packed))
        wanted = (head, net.foreground(*features), net.background(*features))
    shapes = (geometry(48, 32).head_shape, packed.shape, packed.shape)
    for address, shape, value in zip((parts.head, parts.foreground, parts.background), shapes, wanted, strict=True):
        np.testing.assert_allclose(at(address, shape), value.numpy(), rtol=4e-3, atol=2e-2)  # values up to 8
    parts.close()
    parts.close()
