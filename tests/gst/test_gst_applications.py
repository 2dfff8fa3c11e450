# SPDX-License-Identifier: Apache-2.0
"""The element ``crispstream`` in applications: ``scenarios.py`` does it, here is what must be seen."""

from __future__ import annotations

from launch import scenario

Environment = dict[str, str]


def test_any_strides_and_offsets(environment: Environment) -> None:
    seen = scenario(environment, "layouts")
    assert len(seen) == 12
    for case, (exact, padding_untouched, changed) in seen.items():
        assert exact and padding_untouched and changed, case


def test_colours_come_from_the_caps(environment: Environment) -> None:
    for case, (exact, unlike_the_others) in scenario(environment, "colours").items():
        assert exact and unlike_the_others, case


def test_strength_while_it_plays(environment: Environment) -> None:
    seen = scenario(environment, "strength")
    assert seen["off"] == seen["on"] == [True] * 3
    assert seen["controlled"] == [True] * 3 + [False] * 3


def test_strength_changed_from_another_thread_at_any_moment(environment: Environment) -> None:
    assert scenario(environment, "slider") == {"frames": 150, "neither": 0}


def test_other_caps_in_the_middle(environment: Environment) -> None:
    assert scenario(environment, "caps_change") == [True] * 16


def test_times_and_flags_are_kept(environment: Environment) -> None:
    assert scenario(environment, "marks") == {"restarts": [6], "times": True, "flags": True}


def test_played_again_after_null_and_after_a_flushing_seek(environment: Environment) -> None:
    """Per round: the seek came back to 0, with the first result again; the frames differ; NULL freed the engine; the
    second round gives what the first one gave."""
    assert scenario(environment, "again")["rounds"] == [[True] * 5] * 2


def test_two_elements_have_two_engines(environment: Environment) -> None:
    seen = scenario(environment, "apart")
    assert seen["engines"] and seen["exact"] == [[True, True]] * 6


def test_interlaced_video_is_told(environment: Environment) -> None:
    assert scenario(environment, "interlaced") == ["put deinterlace before crispstream"]


def test_an_engine_that_is_too_slow_drops_by_qos(environment: Environment) -> None:
    """20 frames a second, 0.2 s each, 4 s: a fifth or so is done, nearly all of it in time, the rest is counted."""
    for _ in range(4):  # a machine that is busy at the wrong moment makes more frames late
        seen = scenario(environment, "late")
        assert seen["dropped"] >= 40 and seen["processed"] + seen["dropped"] >= 78
        assert seen["latency"] >= 0.2
        if seen["shown"] >= 0.7 * seen["processed"] and seen["last"] > 3 and seen["latency"] < 0.6:
            return
    raise AssertionError(seen)


def test_nothing_leaks(environment: Environment) -> None:
    for _ in range(3):  # the allocator may take a new pool at the wrong moment; what leaks does so every time
        seen = scenario(environment, "leak")
        assert seen["gone"] == seen["made"]
        frames = seen["frames"][-1] - seen["frames"][0]
        pipelines = seen["pipelines"][-1] - seen["pipelines"][3]
        if frames < 2000 and pipelines < 8000:
            return
    raise AssertionError(f"{frames} KiB for 400 frames of 46 KB, {pipelines} KiB for 8 pipelines with an engine each")


def test_the_pipeline_adds_little(environment: Environment) -> None:
    found = []
    while len(found) < 4 and (not found or found[-1]["ratio"] <= 0.75):  # a machine may be busy, but not every time
        found.append(scenario(environment, "speed"))
    assert found[-1]["ratio"] > 0.75, found
