# SPDX-License-Identifier: Apache-2.0
"""The CPU quota, read from made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crispstream.threads import cpu_quota


@pytest.fixture(autouse=True)
def _sixty_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)))


def quota(folder: Path, membership: str, files: dict[str, str]) -> int:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(folder / "cgroup", folder / "membership")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param("0::/\n", {}, 64, id="no files"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 64, id="v2 unlimited"),
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="v2 container root"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3, id="v2 parent"),
        pytest.param("0::/a\n", {"a/cpu.max": "150000 100000"}, 1, id="part of a core is left"),
        pytest.param("0::/a\n", {"a/cpu.max": "5000 100000"}, 1, id="at least one"),
        pytest.param("0::/a\n", {"b/cpu.max": "100000 100000"}, 64, id="someone else's group"),
        pytest.param(
            "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "400000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            4,
            id="v1 own group",
        ),
        pytest.param(
            "3:cpu:/docker/1234\n",
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            5,
            id="v1 own group is the root of the mount",
        ),
        pytest.param(
            "3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64, id="v1 unlimited"
        ),
    ],
)
def test_quota(tmp_path: Path, membership: str, files: dict[str, str], expected: int) -> None:
    assert quota(tmp_path, membership, files) == expected


def test_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    assert quota(tmp_path, "0::/\n", {"cpu.max": "800000 100000"}) == 2


def test_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "nothing") == 64
