# SPDX-License-Identifier: Apache-2.0
"""The installed package finds its library, header and engines, in normal and in editable installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds the wheel, in two minutes on a busy core

ROOT = Path(__file__).parents[1]
RESOURCES = ("lib/libcrispstream_cpu.so", "include/crispstream/launchers.h", "engines", "py.typed")
# The CUDA kernels take minutes to compile and make no difference here.
WITHOUT_CUDA = "CRISPSTREAM_CUDA=OFF"
PROBE = f"""
import json
from importlib.resources import files
found = {{}}
for name in {RESOURCES!r}:
    entry = files("crispstream").joinpath(*name.split("/"))
    found[name] = str(entry) if entry.is_file() or entry.is_dir() else None
import crispstream, crispstream.export
print(json.dumps({{"found": found, "version": crispstream.__version__, "module": crispstream.__file__}}))
"""


def pip(python: Path | str, *arguments: str | Path) -> None:
    """Run this environment's pip, with its build tools, for another environment: nothing is downloaded."""
    environment = {
        **os.environ,
        "SKBUILD_CMAKE_DEFINE": WITHOUT_CUDA,
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment["PATH"] = sysconfig.get_path("scripts") + os.pathsep + environment["PATH"]
    done = subprocess.run([python, "-m", "pip", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("wish", [None, "ON"])
def test_the_demo_compiles_cuda_kernels_only_where_there_is_a_gpu(tmp_path: Path, wish: str | None) -> None:
    """nvcc takes minutes, and may be there without a GPU."""
    devices = map(Path, ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg"))
    wanted = wish or ("AUTO" if any(device.exists() for device in devices) else "OFF")
    variables = [f"VENV={tmp_path}/venv", *([f"CRISPSTREAM_CUDA={wish}"] if wish else [])]
    environment = {name: value for name, value in os.environ.items() if name != "CRISPSTREAM_CUDA"}
    for target, line in ("demo", "[demo]"), ("setup", "[dev]"):
        command = ["make", "--dry-run", *variables, target]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        (install,) = [shown for shown in done.stdout.splitlines() if line in shown]
        assert (f"SKBUILD_CMAKE_DEFINE=CRISPSTREAM_CUDA={wanted} " in install) == (target == "demo")


def fresh_environment(folder: Path) -> Path:
    """A virtual environment with nothing in it; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def probe(python: Path, folder: Path) -> dict[str, dict[str, str | None]]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", PROBE], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    result: dict[str, dict[str, str | None]] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("crispstream-*.whl")
    return built


def test_wheel_fits_every_python(wheel: Path) -> None:
    """One wheel a platform: the library is called through ctypes, so no Python ABI is in the tag."""
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none")
    assert platform.startswith("linux_")


def test_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode()
    assert {f"crispstream/{r}" for r in RESOURCES if r != "engines"} <= set(names)
    assert any(n.startswith("crispstream/engines/") and n.endswith("/manifest.json") for n in names)
    assert not [n for n in names if n.endswith((".cpp", ".cu")) or n.startswith(("tests/", "training/"))]
    assert "License-Expression: Apache-2.0" in metadata


def test_normal_install(wheel: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "venv")
    pip(python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    result = probe(python, tmp_path)
    for name, path in result["found"].items():
        assert path is not None and Path(path).is_relative_to(tmp_path), name
    assert result["version"] in wheel.name


def test_editable_install(tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "venv")
    pip(python, "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    result = probe(python, tmp_path)
    assert None not in result["found"].values(), result["found"]
    assert Path(str(result["module"])) == ROOT / "src" / "crispstream" / "__init__.py"
    assert Path(str(result["found"]["engines"])) == ROOT / "engines"
