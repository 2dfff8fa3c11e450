# SPDX-License-Identifier: Apache-2.0
"""What the self-check tells people to do."""

from __future__ import annotations

import shutil

import pytest

from crispstream import doctor

UNUSED = ("nvcc", "tensorrt", "tensorrt_rtx", "pycuda")


@pytest.mark.parametrize("installed", [False, True])
def test_nothing_is_recommended_that_this_release_cannot_use(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/nvcc" if installed else None)
    checks = {check.name: check for check in doctor.diagnose()}
    for name in UNUSED:
        assert checks[name].status == ("ok" if installed else "missing")
        assert "optional, not used by this release" in checks[name].detail
        assert checks[name].hint == "" and not checks[name].needed
    assert checks["torch"].hint == ("" if installed else "type: pip install 'crispstream[export]'")
