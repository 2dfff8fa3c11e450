# SPDX-License-Identifier: Apache-2.0
"""Latencies, rates, masked addresses, log lines and signs of life."""

from __future__ import annotations

import json
import logging
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from crispstream.errors import UsageError
from crispstream.live import addresses, figures
from crispstream.live.addresses import LONGEST, check, masked, scheme
from crispstream.live.figures import Latency, Rate
from crispstream.live.logs import log_to_stderr
from crispstream.live.notify import Notifier


def test_percentiles_agree_with_numpy() -> None:
    latency = Latency()
    values = np.random.default_rng(0).lognormal(-3, 0.7, 2000)
    for value in values:
        latency.add(float(value))
    recent, overall = latency.recent(), latency.overall()
    for name, share in {"p50": 50, "p95": 95, "p99": 99}.items():
        truth = 1000 * float(np.percentile(values, share))
        assert recent[name] == pytest.approx(truth, rel=0.02)
        assert overall[name] == pytest.approx(truth, rel=0.04)
    assert overall["max"] == recent["max"] == pytest.approx(1000 * values.max(), rel=1e-3)


def test_extremes_and_nothing() -> None:
    latency = Latency()
    assert set(latency.recent().values()) == set(latency.overall().values()) == {None}
    for value in (0.0, 1e9):
        latency.add(value)
    assert latency.overall()["max"] == 1e12


def test_old_values_leave_the_window_and_stay_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    latency, rate = Latency(), Rate()
    now = time.monotonic()
    monkeypatch.setattr(figures, "monotonic", lambda: now)
    for i in range(11):
        monkeypatch.setattr(figures, "monotonic", lambda i=i: now + i / 10)
        latency.add(0.5)
        rate.add()
    assert rate.per_second() == 10
    monkeypatch.setattr(figures, "monotonic", lambda: now + 3)
    assert rate.per_second() == pytest.approx(11 / 3, abs=0.4), "a source that has stopped shows it"
    monkeypatch.setattr(figures, "monotonic", lambda: now + 100)
    assert latency.recent()["p50"] is None and latency.overall()["p50"] == pytest.approx(500, rel=0.03)
    assert rate.per_second() == 0 and rate.count == 11


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://user:secret@cam:554/1",
        "rtsp://user:sec@ret@cam/1",
        "cannot open 'rtsp://user:secret@cam/1?a=secret': refused",
        "http://cam/video?user=admin&pwd=secret",
        "rtmp://live.example/app/secret",
        "rtmps://live.example:443/app/secret?x=1",
        "srt://host:9000?mode=caller&passphrase=secret",
        'rtspsrc location=rtsp://a:secret@h/1 user-id=u user-pw="my secret" ! decodebin',
        "hlssink auth-token=secret ! fakesink",
        "rtsp://admin:p#secret@cam/1 cannot be read (Invalid argument)",
        "rtsp://admin:p/secret?x@cam/1",
        "http://cam/video?secret",
        "rtspsrc user-id=a user-pw='top secret' ! x",
        'rtspsrc user-pw=(string)"top secret" ! x',
        r'rtspsrc extra-headers="x,Authorization=(string)\"Basic secret\"" ! x',
        "souphttpsrc cookies=secret ! x",
        "rtsps://nvr:7441/xsecretA1b2C3d4E5?enableSrtp",
        "rtmp://h/app/a,secret;secret:secret",
        "rtmp://h/app/a'secret",
        "cannot open 'rtmp://h/app/a'secret': refused",
        "rtmp://h/app/secret/secret?a",
        'rtmpsink location="rtmp://h/live/secret live=1"',
        "rtmp2src host=h application=live stream=secret ! x",
        "rtmpsrc location='rtmp://h/live playpath=secret'",
        "http://h/x?a='secret",
        "rtsp://cam/1|rtmp://h/app/secret",
        "http://h:8080/secret/secret/12345.ts",
        "https://h/live/secret/secret/12345",
        "x=1&password=secret",
        'rtspsrc user-pw="my secret',
        "x " * 20_000 + "rtsp://u:secret@h/1 ***",
        "*** " + "x" * (LONGEST - 30) + " rtsp://u:secret" + "y" * 30 + "@h/1",
        "***" + "x" * (LONGEST - 30) + "rtsp://u:secret" + "y" * 30 + "@h/1",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "secret" not in masked(text) and ("***" in masked(text) or len(text) > LONGEST)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://cam:554/Streaming/Channels/101",
        "out.mkv",
        "no such file: a@b.mp4",
        "videotestsrc ! x",
        "rtmp://h/live/***: open",
        "is the camera there? (yes)",
        "http://cam/live/stream.m3u8",
        "what is at http://cam/1?",
        "streaming stopped, reason not-linked (-1)",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "seed",
    [
        *("://a:", "://a", "://", "rtmp://h/", "rtmp://h/a/", "key=", "-key", "key", 'pass="\\', "pass='", "://x/a1"),
        *("a-", "\t://", "://a@\t", "'x://a\"x://a", "http://h/1/2", "a = ", "key = (", "\\", "?", "'", " "),
    ],
)
@pytest.mark.parametrize("before", ["", "://x/", "rtmp://h/a/", "http://h/b/", '"rtmp://h/a/', 'key="', "@"])
def test_masking_takes_time_in_proportion_to_the_length(
    monkeypatch: pytest.MonkeyPatch, before: str, seed: str
) -> None:
    """Whatever somebody sends: while an expression is matched, no other thread runs."""
    monkeypatch.setattr(addresses, "LONGEST", 1 << 20)
    start = time.thread_time()
    masked(before + seed * (65536 // len(seed)))
    assert time.thread_time() - start < 1.5


def test_texts_have_a_length() -> None:
    assert masked("a b " * LONGEST).endswith(" b …") and len(masked("a b " * LONGEST)) <= LONGEST
    assert masked("x " * (LONGEST // 2)) == "x " * (LONGEST // 2)
    assert masked("x" * 2 * LONGEST) == " …"


@pytest.mark.parametrize("url", ["rtsp://a:p#w@cam/1", "rtsp://a:p/w@cam/1", "rtsp://a:p w@cam/1", "rtsp://cam:x/1"])
def test_addresses_that_would_be_misread_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(url)
    assert "cam" not in str(caught.value) and "%23" in caught.value.hint


def test_addresses_that_are_fine() -> None:
    for url in ("rtsp://cam/1", "rtsp://a:p%23w@[::1]:554/1?x=1", "udp://0.0.0.0:5000", "srt://h:1?passphrase=a"):
        check(url)


def test_schemes() -> None:
    assert scheme("RTSP://cam/1") == "rtsp" and scheme("srt://h:1") == "srt"
    assert scheme("file:///etc/passwd") is None and scheme("10:30.mp4") is None and scheme("concat:a|b") is None


def test_log_lines_for_people_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("crispstream")
    before = list(logger.handlers), logger.level, logger.propagate
    try:
        log_to_stderr(False, logging.INFO)
        logging.getLogger("crispstream.live").warning("lost rtsp://u:secret@cam/1\nsecond line")
        logging.getLogger("crispstream.live").debug("not shown")
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "WARNING lost rtsp://***@cam/1 second line" in line
        log_to_stderr(True, logging.INFO)
        logging.getLogger("crispstream.live").info("lost %s", "rtsp://u:secret@cam/1", extra={"figures": {"fps": 25}})
        entry = json.loads(capsys.readouterr().err)
        assert entry["message"] == "lost rtsp://***@cam/1" and entry["level"] == "info" and entry["fps"] == 25
        assert entry["time"].endswith("+00:00")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before


def test_signs_of_life_reach_systemds_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        notifier = Notifier()
        assert notifier.watchdog_seconds == 30
        notifier.ready()
        notifier.alive("25 fps")
        assert server.recv(100) == b"READY=1"
        assert server.recv(100) == b"WATCHDOG=1\nSTATUS=25 fps"
    notifier.stopping()  # nobody listens any more, and that is no error
    monkeypatch.delenv("NOTIFY_SOCKET")
    Notifier().ready()
