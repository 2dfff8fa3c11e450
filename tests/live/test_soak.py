# SPDX-License-Identifier: Apache-2.0
"""Two minutes of a live stream with an outage; `make soak` takes half an hour."""

from __future__ import annotations

from pathlib import Path

import pytest
from rtsp_server import missing_package
from soak import soak

_MISSING = missing_package()


@pytest.mark.skipif(_MISSING is not None, reason=f"{_MISSING} is not installed")
@pytest.mark.timeout(400)
def test_two_minutes_with_an_outage(tmp_path: Path) -> None:
    # The allocator still makes pools for new threads; two minutes of frames that are kept would be 200 MB.
    found = soak(100, tmp_path, (320, 180), growth=60)
    assert found["reconnects"] >= 1 and found["frames"]["out"] > 500
    for sink in found["sinks"]:
        assert sink["frames"] > 0 and sink["state"] == "closed" and not sink["error"]
