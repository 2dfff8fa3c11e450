# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles, wheel configuration and install pages name things that exist. No container engine is needed."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from crispstream.model.presets import PRESETS, Preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PAGES = (
    ROOT / "docs/live.md",
    ROOT / "docs/embedding.md",
    ROOT / "docs/install.md",
    ROOT / "docs/jetson.md",
    ROOT / "docker/README.md",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEFINE = re.compile(r"cmake\.define\.(\w+)")

Instruction = tuple[str, str]


def instructions(dockerfile: Path) -> list[Instruction]:
    """Every instruction as (keyword, rest), continuation lines joined, comments dropped."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(keyword, rest) for keyword, rest in pairs]


def stages(dockerfile: Path) -> list[list[Instruction]]:
    """The instructions cut before each FROM; what precedes the first FROM comes first."""
    cut: list[list[Instruction]] = [[]]
    for instruction in instructions(dockerfile):
        if instruction[0] == "FROM":
            cut.append([])
        cut[-1].append(instruction)
    return cut


def expanded(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


def in_context(path: str) -> bool:
    """Whether .dockerignore lets ``path``, relative to the checkout, into the build context: the last match decides."""
    inside = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, names = line.lstrip("!"), [path, *map(str, Path(path).parents)]
            if any(fnmatch.fnmatch(name, pattern) for name in names if name != "."):
                inside = line.startswith("!")
    return inside


def context(folder: Path) -> None:
    """Copy to ``folder`` what a build would be sent."""
    for entry in filter(lambda e: in_context(e.name), ROOT.iterdir()):
        for path in (entry, *entry.rglob("*")):
            name = path.relative_to(ROOT)
            if path.is_file() and in_context(str(name)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)


def test_the_parser_sees_what_it_should() -> None:
    assert [d.suffix for d in DOCKERFILES] == [".cpu", ".cuda", ".l4t"]
    assert ("CMD", '["doctor"]') in instructions(DOCKERFILES[0])
    assert in_context("src/crispstream/cli.py") and in_context("pyproject.toml")
    assert not in_context("tests/test_cli.py") and not in_context("src/crispstream/__pycache__/cli.pyc")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda d: d.name)
@pytest.mark.parametrize("jetpack", ["6", "7"])
def test_base_images_are_pinned(dockerfile: Path, jetpack: str) -> None:
    first, *rest = stages(dockerfile)
    values = dict(argument.split("=", 1) for _, argument in first) | {"JETPACK": jetpack}
    names: set[str] = set()
    for stage in rest:
        image, *name = expanded(stage[0][1], values).split(" AS ")
        assert image in names or re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image), image
        names |= set(name)
    assert len(rest) >= 2, "nothing of the build belongs in the image that runs"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda d: d.name)
def test_the_image_that_runs(dockerfile: Path) -> None:
    final = stages(dockerfile)[-1]
    settings = dict(final)
    assert settings["USER"].isdigit() and int(settings["USER"]) > 0, "not root"
    assert settings["VOLUME"] == "/cache" and "XDG_CACHE_HOME=/cache" in settings["ENV"]
    assert settings["ENTRYPOINT"] == '["crispstream"]'
    assert f"--uid {settings['USER']} " in " ".join(rest for keyword, rest in final if keyword == "RUN")
    assert [rest for keyword, rest in final if keyword == "COPY"] == ["--from=build /opt/crispstream /opt/crispstream"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda d: d.name)
def test_what_is_copied_exists(dockerfile: Path) -> None:
    sources = [rest.split()[:-1] for keyword, rest in instructions(dockerfile) if keyword == "COPY"]
    for source in (s for group in sources if not group[0].startswith("--from") for s in group):
        assert source == "." or ((ROOT / source).exists() and in_context(source)), source


@pytest.mark.parametrize("file", [*DOCKERFILES, *PAGES], ids=lambda f: f.name)
def test_extras_and_build_options_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    extras = {e for group in re.findall(r"(?:crispstream|\.)\[([\w,]+)\]", text) for e in group.split(",")}
    assert extras <= set(PROJECT["project"]["optional-dependencies"])
    cmake = "".join(f.read_text(encoding="utf-8") for f in (ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")))
    assert set(DEFINE.findall(text)) <= set(re.findall(r"\bCRISPSTREAM_\w+", cmake))


@pytest.mark.timeout(900)  # a minute on a busy core
def test_the_context_builds_the_package(tmp_path: Path) -> None:
    """What .dockerignore lets through is enough for ``pip install .`` without the GPU's kernels."""
    context(tmp_path / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(tmp_path), ".", "-C", "cmake.define.CRISPSTREAM_CUDA=OFF"]
    environment = os.environ | {"PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(command, cwd=tmp_path / "source", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("crispstream-*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    page = "preview/static/index.html"
    for needed in ("cli.py", page, "export/__init__.py", "engines/nano/manifest.json", "lib/libcrispstream_cpu.so"):
        assert f"crispstream/{needed}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheels_are_for_a_cpu_and_span_the_supported_pythons() -> None:
    wheels = PROJECT["tool"]["cibuildwheel"]
    assert wheels["config-settings"] == {"cmake.define.CRISPSTREAM_CUDA": "OFF"}
    versions = [int(re.fullmatch(r"cp3(\d+)-manylinux_\*", selector)[1]) for selector in wheels["build"]]
    assert PROJECT["project"]["requires-python"] == f">=3.{min(versions)},<3.{max(versions) + 1}"
    for script in re.findall(r"\{project\}/(\S+)", wheels["test-command"]):
        assert (ROOT / script).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def boundary_bytes(preset: Preset) -> float:
    """Bytes a pixel of the FP16 tensors between the network's parts."""
    area = (preset.pack**2, (2 * preset.pack) ** 2, (4 * preset.pack) ** 2)
    features = sum(channels / pixels for channels, pixels in zip(preset.channels, area, strict=True))
    packed, residuals = preset.packed_channels / area[0], 2 * preset.packed_channels / area[0]
    return 2 * (packed + features + 2 / area[2] + residuals)


def test_the_memory_on_the_jetson_page_is_what_the_presets_need() -> None:
    text = (ROOT / "docs/jetson.md").read_text(encoding="utf-8")
    sizes = [tuple(map(int, size)) for size in re.findall(r"\| (\d+)x(\d+) ", text)]
    for name, preset in PRESETS.items():
        row = [f"{boundary_bytes(preset):.1f}"]
        for size in sizes:
            width, height = (-(-side // preset.multiple) * preset.multiple for side in size)
            row.append(f"{boundary_bytes(preset) * width * height / 2**20:.0f} MiB")
        assert f"| `{name}` | {' | '.join(row)} |" in text, (name, row)
    frames = " | ".join(f"{4 * 1.5 * width * height / 2**20:.0f} MiB" for width, height in sizes)
    assert f"| frames, NV12 | | {frames} |" in text
