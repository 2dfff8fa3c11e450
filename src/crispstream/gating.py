# SPDX-License-Identifier: Apache-2.0
"""Human-aware gating: which branches a frame of a stream needs, and how a switch fades."""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 2
"""Frames in flight (K). A decision uses the statistics of the frame exactly K back, so it never depends on timing."""
ON_THRESHOLD = 0.05
"""Gate share of a 16x16-pixel cell (mean of g m, or of g (1 - m)) above which a branch has work."""
QUIET_FRAMES = 12
"""A branch is left out after this many consecutive frames without work."""
FADE_FRAMES = 4
"""A switch changes the picture over this many frames."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one frame gets. ``foreground``, ``background``: whether the branch runs. The blend's ``strength`` factor,
    ``mask_gain`` and ``mask_bias`` carry the fade; all branches on is (1, 1, 0)."""

    foreground: bool = True
    background: bool = True
    strength: float = 1.0
    mask_gain: float = 1.0
    mask_bias: float = 0.0

    @property
    def variant(self) -> str:
        """Name of the gating variant: both, foreground, background or none."""
        if self.foreground and self.background:
            return "both"
        return "foreground" if self.foreground else "background" if self.background else "none"


class _Switch:
    """One branch: on at once, off after QUIET_FRAMES quiet frames; its weight follows in FADE_FRAMES steps."""

    def __init__(self) -> None:
        self.level = FADE_FRAMES
        self._quiet = 0

    def observe(self, share: float) -> None:
        self._quiet = 0 if share > ON_THRESHOLD else self._quiet + 1

    def step(self) -> None:
        wanted = self._quiet < QUIET_FRAMES
        self.level = min(self.level + 1, FADE_FRAMES) if wanted else max(self.level - 1, 0)


class Gating:
    """State of one stream. Call ``decide`` before each frame; ``reset`` on a discontinuity."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next frames run everything."""
        self._foreground, self._background = _Switch(), _Switch()

    def decide(self, statistics: tuple[float, float] | None) -> Decision:
        """Decision for the next frame.

        ``statistics`` of the frame SLOTS back, maxima over cells of mean(g m) and of mean(g (1 - m)); None where the
        stream has no such frame yet.
        """
        if statistics is not None:
            person, scene = statistics
            self._foreground.observe(person)
            self._background.observe(scene)
            self._foreground.step()
            self._background.step()
        front, back = self._foreground.level, self._background.level
        top = max(front, back)
        if top == 0:
            return Decision(False, False, 0.0, 1.0, 0.0)
        # The stronger branch is whole; the weaker one hands its share of the mask over to it.
        front_share, back_share = front / top, back / top
        return Decision(front > 0, back > 0, top / FADE_FRAMES, front_share + back_share - 1, 1 - back_share)
