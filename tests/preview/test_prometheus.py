# SPDX-License-Identifier: Apache-2.0
"""The metrics are what Prometheus' text format 0.0.4 asks for."""

from __future__ import annotations

import re

from preview_stub import StubSession

from crispstream.preview.prometheus import exposition

SAMPLE = re.compile(r'^([a-z_]+)(\{(?:[a-z]+="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)+\})? (-?[\d.e+-]+)$')


def parsed(text: str) -> dict[str, float]:
    """Values by name with labels; fails on a line that is no sample, and on a sample without HELP and TYPE."""
    kinds: dict[str, str] = {}
    described: set[str] = set()
    values: dict[str, float] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            described.add(line.split(" ", 3)[2])
        elif line.startswith("# TYPE "):
            name, kinds[name] = line.split(" ")[2], line.split(" ")[3]
            assert (kinds[name] == "counter") == name.endswith("_total"), name
        else:
            name, labels, value = SAMPLE.match(line).groups()
            assert name in kinds and name in described and name + (labels or "") not in values, line
            values[name + (labels or "")] = float(value)
    return values


def test_everything_in_base_units() -> None:
    values = parsed(exposition(StubSession().status(), viewers=3, encoded=70, dropped=1))
    assert values['crispstream_latency_seconds{quantile="0.99"}'] == 0.07
    assert values['crispstream_dropped_frames_total{cause="newer"}'] == 1
    assert values['crispstream_sink_latency_seconds{sink="out.mkv",number="0",quantile="1"}'] == 0.08
    assert values['crispstream_source_up{source="rtsp://***@camera/1"}'] == 1
    assert values["crispstream_source_reconnects_total"] == 2
    assert values["crispstream_source_damaged_total"] == 3
    assert values['crispstream_dropped_frames_total{cause="source"}'] == 4
    assert values["crispstream_engine_frame_seconds"] == 0.0331
    assert values['crispstream_engine_info{preset="nano",name="onnxruntime",device="cpu"}'] == 1
    assert values["crispstream_preview_viewers"] == 3 and values["crispstream_preview_pictures_total"] == 70


def test_what_is_not_known_is_left_out() -> None:
    status = StubSession().status()
    status["latency_ms"] = dict.fromkeys(status["latency_ms"])
    status["source"]["width"] = None
    values = parsed(exposition(status, 0, 0, 0))
    assert not [name for name in values if name.startswith(("crispstream_latency", "crispstream_source_width"))]
    assert not [name for name in values if 'kind="blur"' in name]


def test_labels_are_escaped() -> None:
    status = StubSession().status()
    status["source"]["name"] = 'a "quoted"\\ name\nof two lines'
    assert 'crispstream_source_up{source="a \\"quoted\\"\\\\ name\\nof two lines"} 1' in exposition(status, 0, 0, 0)
    assert parsed(exposition(status, 0, 0, 0))


def test_two_sinks_of_one_name() -> None:
    status = StubSession().status()
    status["sinks"] *= 2
    values = parsed(exposition(status, 0, 0, 0))
    assert len([name for name in values if name.startswith("crispstream_sink_frames{")]) == 2
