# SPDX-License-Identifier: Apache-2.0
"""What may import what: a light package, and stages that do not know their neighbours."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from media.clips import write_clip

SOURCE = Path(__file__).parents[1] / "src" / "crispstream"
MODULES = sorted(SOURCE.rglob("*.py"))
STAGES = ("sources", "sinks", "engine", "kernels")
BELOW = {"engine": "kernels"}
"""On the CPU the last step of a branch is a kernel."""
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cv2", "av", "numpy", "rich", "PIL")
NOT_FOR_FILMS = ("torch", "onnx", "tensorrt", "tensorrt_rtx", "pycuda", "cv2", "aiohttp", "asyncio", "rich", "PIL")


def imported(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Absolute dotted names that a module imports, ``from a import b`` as ``a.b``; TYPE_CHECKING blocks count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("crispstream", *path.relative_to(SOURCE).parts[:-1])
    nodes = [n for s in tree.body if not isinstance(s, ast.FunctionDef | ast.ClassDef) for n in ast.walk(s)]
    for node in nodes if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_loads_the_package_alone() -> None:
    """Of its modules the first, of the standard library what finds modules and what ``typing`` brings along."""
    code = "import sys, os, importlib, typing; old = {*sys.modules}; import crispstream; print(*{*sys.modules} - old)"
    loaded = {m for m in run_python(code).split() if not within(m, "importlib")}
    assert loaded <= {"__future__", "crispstream"}


def test_cli_help_loads_nothing_heavy() -> None:
    code = f"import sys, crispstream.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_a_film_loads_what_films_need_alone(tmp_path: Path) -> None:
    """Nor, in a log, the bar of a terminal."""
    clip = write_clip(tmp_path / "in.mp4", frames=2)
    code = f"""
import sys
from crispstream import run
run({str(clip)!r}, {str(tmp_path / "out.mp4")!r}, device="cpu", backend="onnxruntime", progress=True)
print([m for m in {NOT_FOR_FILMS!r} if m in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_public_names_load_on_use() -> None:
    import crispstream

    assert crispstream.Frame.__module__ == "crispstream.frame"
    assert crispstream.CrispStreamError.exit_code == 1
    assert set(crispstream.__all__) <= set(dir(crispstream))
    for name in crispstream.__all__:
        assert callable(getattr(crispstream, name)), name
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        _ = crispstream.sharpen  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_house_rules(path: Path) -> None:
    inside = path.relative_to(SOURCE)
    names = set(imported(path))
    if inside.parts[0] != "model" and inside.as_posix() != "engine/torch.py":
        assert not [n for n in names if within(n, "torch")], "torch belongs to model/ and engine/torch.py"
    assert not [n for n in names if within(n, "onnx") or within(n, "onnxscript")], "onnx belongs to the toolchain"
    if inside.parts[0] != "cuda":
        assert not [n for n in names if within(n, "pycuda")], "pycuda belongs to cuda/"
    if inside.parts[0] == "commands":
        names = set(imported(path, top_level_only=True))
    assert not [n for n in names if within(n, "crispstream.export")], "the runtime never imports the toolchain"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_one_another(stage: str) -> None:
    neighbours = [f"crispstream.{other}" for other in STAGES if other not in (stage, BELOW.get(stage))]
    composers = ["crispstream.pipeline", "crispstream.files", "crispstream.cli"]
    composers += ["crispstream.commands", "crispstream.deblurrer"]
    modules = [p for p in MODULES if p.relative_to(SOURCE).parts[0].removesuffix(".py") == stage]
    assert modules, f"no stage {stage}"
    wrong = {
        f"{p.relative_to(SOURCE)} imports {name}"
        for p in modules
        for name in imported(p)
        if any(within(name, other) for other in neighbours + composers)
    }
    assert not wrong
