# SPDX-License-Identifier: Apache-2.0
"""A pool on an emulated GPU, where frames are under way while others are handed in."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from emulation.fake_pycuda import Machine
from smeared import smeared

from crispstream import Deblurrer, DeblurrerPool, Frame, PixelFormat, Policy
from crispstream.frame import ColorSpec

SIZES = ((61, 43), (64, 48), (75, 40))


def clip(index: int, count: int = 8) -> list[Frame]:
    return [smeared(PixelFormat.BGR24, SIZES[index % 3], 10 * index + n, ColorSpec()) for n in range(count)]


def test_streams_get_what_they_would_get_alone(open_gpu: Callable[..., Machine]) -> None:
    open_gpu()
    clips = [clip(index) for index in range(4)]
    with Deblurrer("nano", "cuda") as deblur:
        alone = [list(deblur.stream(frames)) for frames in clips]
        with DeblurrerPool(deblur) as pool:
            streams = [pool.open_stream() for _ in clips]

            def feed(index: int) -> None:
                for frame in clips[index]:
                    streams[index].submit(frame)
                streams[index].finish()

            feeders = [threading.Thread(target=feed, args=(i,), daemon=True) for i in range(len(clips))]
            for feeder in feeders:
                feeder.start()
            together: list[list[Frame]] = [[] for _ in clips]
            for _ in clips[0]:
                for results, stream in zip(together, streams, strict=True):
                    results.append(next(stream))
            assert all(next(stream, None) is None for stream in streams)
            for feeder in feeders:
                feeder.join()
    for want, got in zip(alone, together, strict=True):
        assert all(np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(want, got, strict=True))


def test_closing_while_frames_are_under_way(open_gpu: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool, its streams and the Deblurrer in any order; the emulated machine says whether anything leaked."""
    open_gpu()
    monkeypatch.setattr("crispstream.pool.CLOSE_SECONDS", 120)  # a busy machine may take long to open a layout
    for order in ("pool", "stream", "deblurrer"):
        deblur = Deblurrer("nano", "cuda")
        pool = DeblurrerPool(deblur)
        streams = [pool.open_stream(Policy.NEWEST) for _ in range(3)]
        for index, stream in enumerate(streams):
            for frame in clip(index, 4):
                stream.submit(frame)
        {"pool": pool.close, "stream": streams[1].close, "deblurrer": deblur.close}[order]()
        pool.close()
        deblur.close()
        assert not pool._thread.is_alive()
        assert all(next(stream, None) is None for stream in streams)
