# SPDX-License-Identifier: Apache-2.0
"""Options, engines and the stored form of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.machine import machine
from benchmarks.paired import Paired
from crispstream import quantised
from crispstream.engine.protocol import Engine
from crispstream.engine.select import open_engine
from crispstream.manifest import available_presets, load

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
"""INT8 graphs that were made here are used again; the user's own are left alone."""
BACKENDS = {"fp32": "onnxruntime", "int8": quantised.BACKEND}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=1.0, help="for each measurement of benchmarks/; 0: the least")


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long a measurement may take."""
    return float(request.config.getoption("--seconds"))


@pytest.fixture
def paired(benchmark: Any, seconds: float) -> Paired:
    return Paired(benchmark, seconds)


@pytest.fixture(scope="session", autouse=True)
def cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(CACHE))
        yield


@pytest.fixture(scope="session")
def preset_argument(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Callable[[str, str], str]:
    """(preset, precision) -> what a Deblurrer takes for it; INT8 graphs are made once.

    A preset without weights is a folder with an untrained network: speed does not depend on the weights.
    """
    folders: dict[str, str] = {}

    def argument(preset: str, precision: str) -> str:
        if preset not in folders:
            folders[preset] = preset if preset in available_presets() else _untrained(preset, tmp_path_factory)
        if precision == "int8" and "error" in quantised.describe(load(folders[preset])):
            from crispstream.export.int8 import build_int8

            build_int8(folders[preset])
        return folders[preset]

    return argument


def _untrained(preset: str, factory: pytest.TempPathFactory) -> str:
    from crispstream.export.build import build
    from crispstream.model.network import HumanAwareNet
    from crispstream.model.presets import PRESETS
    from crispstream.model.weights import save_weights

    folder = factory.mktemp(preset)
    save_weights(HumanAwareNet(PRESETS[preset]), folder / "weights.safetensors")
    build(PRESETS[preset], folder / "weights.safetensors", folder)
    return str(folder)


@pytest.fixture
def engine_of(preset_argument: Callable[[str, str], str]) -> Iterator[Callable[[str, str, int], Engine]]:
    """(preset, precision, threads) -> its engine, closed after the test."""
    opened: list[Engine] = []

    def open_one(preset: str, precision: str, threads: int) -> Engine:
        argument = preset_argument(preset, precision)
        opened.append(cast(Engine, open_engine(argument, "cpu", BACKENDS[precision], threads)))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.clear()
    machine_info.update(machine())


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    for key in set(commit_info) - {"id", "dirty"}:
        del commit_info[key]


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Of each benchmark what ``report`` and ``compare`` read: its name, parameters, time and ``extra_info``."""
    output_json["benchmarks"] = [
        _rounded(
            {
                "name": f"{Path(one['fullname'].partition('::')[0]).stem}::{one['name']}",
                "test": one["name"].partition("[")[0],
                "params": one["params"] or {},
                "seconds": {key: one["stats"][key] for key in ("min", "median", "rounds")},
                **one["extra_info"],
            }
        )
        for one in output_json["benchmarks"]
    ]


def _rounded(value: Any) -> Any:
    """Plain values with six digits: more say nothing, and the file is read by people, too."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
