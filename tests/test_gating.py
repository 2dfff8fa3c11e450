# SPDX-License-Identifier: Apache-2.0
"""Human-aware gating: timing, hysteresis, fades, and what the blend makes of them."""

from __future__ import annotations

import itertools
from collections import deque

import pytest

from crispstream.gating import FADE_FRAMES, ON_THRESHOLD, QUIET_FRAMES, SLOTS, Decision, Gating

PERSON, SCENE, BOTH, NOTHING = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)


class Stream:
    """A ``Gating`` whose decisions come from the frame SLOTS back."""

    def __init__(self) -> None:
        self.gating = Gating()
        self.pending: deque[tuple[float, float]] = deque()

    def feed(self, statistics: tuple[float, float], frames: int) -> list[Decision]:
        decisions = []
        for _ in range(frames):
            back = self.pending.popleft() if len(self.pending) == SLOTS else None
            decisions.append(self.gating.decide(back))
            self.pending.append(statistics)
        return decisions


def shares(decision: Decision, mask: float) -> tuple[float, float]:
    """Weights of foreground and background residual at a pixel with this mask value, as the blend computes them."""
    m = decision.mask_gain * mask + decision.mask_bias
    return decision.strength * m, decision.strength * (1 - m)


def test_everything_runs_while_both_layers_move() -> None:
    assert set(Stream().feed(BOTH, 50)) == {Decision()}


@pytest.mark.parametrize(("statistics", "variant"), [(PERSON, "foreground"), (SCENE, "background"), (NOTHING, "none")])
def test_a_quiet_branch_goes_after_the_quiet_frames_and_the_fade(statistics: tuple[float, float], variant: str) -> None:
    decisions = Stream().feed(statistics, SLOTS + QUIET_FRAMES + FADE_FRAMES)
    assert decisions[SLOTS + QUIET_FRAMES - 2] == Decision()
    assert [d.variant for d in decisions[:-1]] == ["both"] * (len(decisions) - 1 - 1) + [variant]


def test_the_branch_that_stays_takes_over_smoothly() -> None:
    decisions = Stream().feed(SCENE, SLOTS + QUIET_FRAMES + FADE_FRAMES + 1)
    foreground = [shares(d, 0.8)[0] for d in decisions]
    background = [shares(d, 0.8)[1] for d in decisions]
    steps = [a - b for a, b in itertools.pairwise(foreground)]
    assert max(steps) <= 0.8 / FADE_FRAMES + 1e-6 and min(steps) >= 0
    assert background[-1] == pytest.approx(1.0)
    assert all(f + b == pytest.approx(1.0) for f, b in zip(foreground, background, strict=True))


def test_all_quiet_fades_the_strength_and_keeps_the_mask() -> None:
    decisions = Stream().feed(NOTHING, SLOTS + QUIET_FRAMES + FADE_FRAMES + 1)
    fading = [d for d in decisions if 0 < d.strength < 1]
    assert [d.strength for d in fading] == [0.75, 0.5, 0.25]
    assert all((d.mask_gain, d.mask_bias) == (1, 0) for d in fading)
    assert decisions[-1].variant == "none"


def test_on_at_once_from_the_frame_slots_back() -> None:
    stream = Stream()
    stream.feed(NOTHING, 60)
    woken = stream.feed(PERSON, SLOTS + FADE_FRAMES)
    assert [d.variant for d in woken[: SLOTS + 1]] == ["none"] * SLOTS + ["foreground"]
    assert [d.strength for d in woken[SLOTS:]] == [0.25, 0.5, 0.75, 1.0]


def test_a_flicker_below_the_quiet_frames_changes_nothing() -> None:
    stream = Stream()
    for _ in range(5):
        assert {d.variant for d in stream.feed(NOTHING, QUIET_FRAMES - 1) + stream.feed(BOTH, 1)} == {"both"}


def test_the_threshold_itself_is_quiet() -> None:
    assert Stream().feed((ON_THRESHOLD, 1.0), 40)[-1].variant == "background"
    assert Stream().feed((ON_THRESHOLD * 1.01, 1.0), 40)[-1].variant == "both"


def test_reset_runs_everything_again() -> None:
    stream = Stream()
    stream.feed(NOTHING, 60)
    stream.gating.reset()
    stream.pending.clear()
    assert stream.feed(NOTHING, SLOTS) == [Decision()] * SLOTS
