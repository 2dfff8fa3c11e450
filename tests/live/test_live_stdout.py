# SPDX-License-Identifier: Apache-2.0
"""Live frames on standard output: what a reader gets, and readers that go, stall or are given another size."""

from __future__ import annotations

import io
import select
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

HEAD = f"""
import sys, time, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fractions import Fraction
from shots import shot
from crispstream.errors import ClosedPipeError, OutputError
from crispstream.frame import PixelFormat
from crispstream.live.outlet import Outlet
from crispstream.live.protocol import EndOfSink
from crispstream.sinks.stdout import StdoutSink
"""


def start(code: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HEAD + code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_yuv4mpeg() -> None:
    out, said = start(
        "sink = StdoutSink(Fraction(30000, 1001))\n"
        "for i in range(5): sink.write(shot(i))\n"
        "print('not a pixel')\n"
        "sink.close(); sink.abort()"
    ).communicate(timeout=120)
    assert out.startswith(b"YUV4MPEG2 W64 H48 F30000:1001 ")
    assert b"not a pixel" in said and b"not a pixel" not in out
    with av.open(io.BytesIO(out), format="yuv4mpegpipe") as film:
        columns = [int(frame.to_ndarray(format="gray")[10].argmax()) // 4 for frame in film.decode(video=0)]
    assert columns == [0, 1, 2, 3, 4]


def test_rawvideo() -> None:
    out, _ = start(
        "sink = StdoutSink(Fraction(25), PixelFormat.BGR24)\nfor i in range(3): sink.write(shot(i))\nsink.close()"
    ).communicate(timeout=120)
    frames = np.frombuffer(out, np.uint8).reshape(3, 48, 64, 3)
    assert [int(frame[10, :, 0].argmax()) // 4 for frame in frames] == [0, 1, 2]


def test_made_without_side_effects() -> None:
    out, _ = start("sink = StdoutSink(Fraction(25))\nprint('still mine')\nsink.close(); sink.abort()").communicate(
        timeout=120
    )
    assert out == b"still mine\n"


def test_another_size_ends_it_with_one_line() -> None:
    out, said = start(
        "sink = StdoutSink(Fraction(25), PixelFormat.BGR24)\n"
        "sink.write(shot(0))\n"
        "try: sink.write(shot(1, size=(32, 32)))\n"
        "except EndOfSink as error: print('ended:', error)\n"
        "sink.abort()"
    ).communicate(timeout=120)
    assert len(out) == 64 * 48 * 3
    assert said.decode().splitlines() == ["ended: the frame size changes from 64x48 to 32x32"]


def test_a_reader_that_has_seen_enough() -> None:
    run = start(
        "sink = StdoutSink(Fraction(25))\n"
        "try:\n"
        "    for i in range(10_000): sink.write(shot(i))\n"
        "except ClosedPipeError as error: print(error)\n"
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.read(10_000)
    run.stdout.close()
    said = run.stderr.read()
    assert run.wait(60) == 0
    assert b"was closed by its reader" in said


def test_the_rate_is_the_frames_own_where_none_is_given() -> None:
    code = (
        "from dataclasses import replace\n"
        "sink, one = StdoutSink(None), shot(0)\n"
        "sink.write(replace(one, after=replace(one.after, pts=0, duration=1001, time_base=Fraction(1, 30000))))\n"
        "sink.close()"
    )
    assert start(code).communicate(timeout=120)[0].startswith(b"YUV4MPEG2 W64 H48 F30000:1001 ")
    assert (
        start("sink = StdoutSink(None)\nsink.write(shot(0))\nsink.close()")
        .communicate(timeout=120)[0]
        .startswith(b"YUV4MPEG2 W64 H48 F25:1 ")
    )


def test_a_full_disk_behind_it() -> None:
    """The end, with its true reason: a pipe that is closed cannot be begun anew."""
    code = (
        "import logging; logging.basicConfig()\n"
        "outlet = Outlet('standard output', lambda: StdoutSink(Fraction(25)), 2)\n"
        "outlet.start()\n"
        "for i in range(2): outlet.offer(shot(i))\n"
        "print(outlet.ended.wait(60), outlet.state, outlet.error, file=sys.stderr)\n"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", HEAD + code], stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert b"True failed cannot write standard output (No space left on device)" in done.stderr


def test_a_stalled_reader_holds_up_nobody_and_no_end() -> None:
    """Through an Outlet, as in a session: shots are dropped, and the process ends although nobody reads."""
    run = start(
        "import logging; logging.basicConfig()\n"
        "outlet = Outlet('standard output', lambda: StdoutSink(Fraction(25)), 2)\n"
        "outlet.start()\n"
        "took = []\n"
        "for i in range(300):\n"
        "    before = time.monotonic(); outlet.offer(shot(i, size=(320, 240)))\n"
        "    took.append(time.monotonic() - before); time.sleep(0.001)\n"
        "sys.stdin.read()\n"
        "outlet.finish()\n"
        "print(outlet.join(0.5), outlet.dropped > 200, sorted(took)[150] < 0.5, file=sys.stderr)\n"
    )
    assert run.stdin is not None and run.stderr is not None and run.stdout is not None
    assert select.select([run.stdout], [], [], 60)[0], "it has begun to write"
    run.stdin.close()
    assert run.wait(60) == 0
    assert b"False True True" in run.stderr.read()
    assert run.stdout.read(9) == b"YUV4MPEG2"
