# SPDX-License-Identifier: Apache-2.0
"""A session's status in Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Sample = tuple[Mapping[str, str], Any]


def exposition(status: Mapping[str, Any], viewers: int, encoded: int, dropped: int) -> str:
    """The metrics of ``session.status()`` and of the page itself. What is None is left out. Times are in seconds."""
    source, engine, sinks = status["source"], status["engine"], status["sinks"]
    # Two sinks may bear one name.
    named = [({"sink": sink["name"], "number": str(number)}, sink) for number, sink in enumerate(sinks)]
    families: list[tuple[str, str, str, Iterable[Sample]]] = [
        ("uptime_seconds", "gauge", "Time since the stream was started.", _one(status["uptime_s"])),
        ("source_up", "gauge", "1 while the source delivers frames.", [_up(source, "live", source=source["name"])]),
        (
            "source_reconnects_total",
            "counter",
            "Tries to connect to the source after the first.",
            _one(source["reconnects"]),
        ),
        ("source_damaged_total", "counter", "Frames or packets that could not be decoded.", _one(source["damaged"])),
        ("source_width_pixels", "gauge", "Columns of the source's frames.", _one(source["width"])),
        ("source_height_pixels", "gauge", "Rows of the source's frames.", _one(source["height"])),
        (
            "frames_total",
            "counter",
            "Frames that came in and results that went out.",
            _by("direction", status["frames"]),
        ),
        ("frames_per_second", "gauge", "Rate over the last seconds.", _by("direction", status["fps"])),
        ("dropped_frames_total", "counter", "Frames without a result, by cause.", _by("cause", status["drops"])),
        ("variant_frames_total", "counter", "Frames by the branches that ran.", _by("variant", status["variants"])),
        ("latency_seconds", "gauge", "From capture to result, over the last 10 s.", _latency(status["latency_ms"])),
        (
            "engine_info",
            "gauge",
            "The engine at work.",
            [({k: str(engine[k]) for k in ("preset", "name", "device")}, 1)],
        ),
        ("engine_frame_seconds", "gauge", "Time the engine takes for a frame.", _one(_seconds(engine["ms"]))),
        ("engine_failed", "gauge", "1 while the engine reports an error.", _one(int(bool(engine["error"])))),
        ("strength", "gauge", "Factor on the restoration, 0 to 2.", _one(engine["strength"])),
        ("non_finite_values_total", "counter", "Values of the network that were dropped.", _one(status["non_finite"])),
        ("area_ratio", "gauge", "Part of the last frame, 0 to 1.", _by("kind", status["shares"])),
        ("sink_up", "gauge", "1 while the sink takes frames.", [_up(sink, "open", **labels) for labels, sink in named]),
        (
            "sink_frames",
            "gauge",
            "Frames in the sink; a film that is lost takes its own away.",
            [(n, s["frames"]) for n, s in named],
        ),
        (
            "sink_dropped_frames_total",
            "counter",
            "Frames too many for the sink.",
            [(n, s["dropped"]) for n, s in named],
        ),
        (
            "sink_latency_seconds",
            "gauge",
            "From capture to the sink, over the last 10 s.",
            [({**n, **labels}, value) for n, s in named for labels, value in _latency(s["latency_ms"])],
        ),
        ("preview_viewers", "gauge", "Pages that look on.", _one(viewers)),
        ("preview_pictures_total", "counter", "Frames encoded for viewers.", _one(encoded)),
        ("preview_dropped_viewers_total", "counter", "Viewers that took nothing for too long.", _one(dropped)),
    ]
    return "".join(_family(*family) for family in families)


def _family(name: str, kind: str, description: str, samples: Iterable[Sample]) -> str:
    name = f"crispstream_{name}"
    lines = [f"{name}{_labels(labels)} {float(value):.10g}" for labels, value in samples if value is not None]
    return "\n".join((f"# HELP {name} {description}", f"# TYPE {name} {kind}", *lines, "")) if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _one(value: Any) -> list[Sample]:
    return [({}, value)]


def _by(label: str, values: Mapping[str, Any]) -> list[Sample]:
    return [({label: name}, value) for name, value in values.items()]


def _up(thing: Mapping[str, Any], good: str, **labels: str) -> Sample:
    return labels, int(thing["state"] == good)


def _latency(milliseconds: Mapping[str, Any]) -> list[Sample]:
    """Percentiles by Prometheus' own name for them; the maximum is quantile 1."""
    names = {"p50": "0.5", "p95": "0.95", "p99": "0.99", "max": "1"}
    return [({"quantile": names[k]}, _seconds(v)) for k, v in milliseconds.items() if k in names]


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
