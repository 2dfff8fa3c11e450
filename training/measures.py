# SPDX-License-Identifier: Apache-2.0
"""Figures of one picture, and what many of them say together. docs/evaluation.md defines each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crispstream.metrics import SSIM_MARGIN, psnr, ssim_map
from training.dataset import Picture

Map = npt.NDArray[np.float32]

NEARLY_SHARP = 45.0
"""Input this close to the truth (dB) has no blur to remove: no gain is counted, or one such picture would decide a
mean."""
SMALLEST = 1000.0
"""Pixels that a region must have to be measured on its own."""


@dataclass(frozen=True, slots=True)
class Quality:
    """PSNR in dB and SSIM of the blurred input and of the restored picture, against the truth."""

    blurred: float
    restored: float
    ssim_blurred: float
    ssim_restored: float


@dataclass(frozen=True, slots=True)
class Score(Quality):
    """A whole picture. ``harm``: dB of the output against the input when that is sharp.

    ``person``, ``background``: these alone (None: not known, too small, not blurred). ``common``, ``either``,
    ``person_pixels``: pixels that both the predicted mask and the true one, at least one, the true one call a person.
    """

    harm: float
    person: Quality | None = None
    background: Quality | None = None
    common: int = 0
    either: int = 0
    person_pixels: int = 0


def align(truth: Picture, blurred: Picture) -> Picture:
    """Shift the truth onto the blurred picture (ECC, translation; Evangelidis and Psarakis, PAMI 2008).

    The sharp frame of a real pair is not always the exact middle of the exposure. Moving the truth rather than the
    results treats input and output alike.
    """
    shift = np.eye(2, 3, dtype=np.float32)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (blurred, truth)]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
    try:
        _, shift = cv2.findTransformECC(grey[0], grey[1], shift, cv2.MOTION_TRANSLATION, stop, None, 5)
    except cv2.error:
        return truth
    size = (truth.shape[1], truth.shape[0])
    moved = cv2.warpAffine(
        truth, shift, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(moved, np.uint8)


def quality(blurred: Picture, restored: Picture, truth: Picture, weight: Map | None = None) -> Quality:
    """Of (H, W, 3) pictures; ``weight`` (H, W) in [0, 1] says how much each pixel counts (default: all the same)."""
    inner = None if weight is None else weight[SSIM_MARGIN:-SSIM_MARGIN, SSIM_MARGIN:-SSIM_MARGIN]
    levels = [psnr(p, truth, weight) for p in (blurred, restored)]
    return Quality(*levels, *(float(np.average(ssim_map(p, truth), weights=inner)) for p in (blurred, restored)))


def region(blurred: Picture, restored: Picture, truth: Picture, weight: Map) -> Quality | None:
    """``quality`` where ``weight`` is 1; None when that is too small or not blurred."""
    if weight[SSIM_MARGIN:-SSIM_MARGIN, SSIM_MARGIN:-SSIM_MARGIN].sum() < SMALLEST:
        return None
    found = quality(blurred, restored, truth, weight)
    return found if found.blurred < NEARLY_SHARP else None


def _differences(qualities: list[Quality], name: str) -> dict[str, float]:
    if not qualities:
        return {}
    return {
        f"gain_{name}": float(np.mean([q.restored - q.blurred for q in qualities])),
        f"ssim_gain_{name}": float(np.mean([q.ssim_restored - q.ssim_blurred for q in qualities])),
        f"worse_{name}": sum(q.restored < q.blurred for q in qualities),
    }


def summary(scores: list[Score]) -> dict[str, float]:
    """Means over blurred pictures, how many got worse, the masks' overlap over all pixels; a figure that no picture
    gives is left out. Raises ValueError when nothing was blurred."""
    whole = [s for s in scores if s.blurred < NEARLY_SHARP]
    if not whole:
        raise ValueError("no picture of the set is blurred")
    figures: dict[str, float] = {
        "pictures": len(whole),
        "nearly_sharp": len(scores) - len(whole),
        "psnr_blurred": float(np.mean([q.blurred for q in whole])),
        "psnr_restored": float(np.mean([q.restored for q in whole])),
        "gain": float(np.mean([q.restored - q.blurred for q in whole])),
        "worse": sum(q.restored < q.blurred for q in whole),
        "worst_gain": min(q.restored - q.blurred for q in whole),
        "ssim_blurred": float(np.mean([q.ssim_blurred for q in whole])),
        "ssim_restored": float(np.mean([q.ssim_restored for q in whole])),
        **_differences([s.person for s in scores if s.person], "person"),
        **_differences([s.background for s in scores if s.background], "background"),
    }
    if true := sum(s.person_pixels for s in scores):
        common = sum(s.common for s in scores)
        figures |= {"mask_iou": common / sum(s.either for s in scores), "mask_recall": common / true}
    harm = [s.harm for s in scores]
    return figures | {"no_harm_psnr": float(np.mean(harm)), "no_harm_worst": min(harm)}


def change_error(before: tuple[Picture, Picture], after: tuple[Picture, Picture]) -> float:
    """Temporal error between two frames (picture, truth), before and after, in 8-bit codes.

    Root mean square over pixels and channels of ``(picture_after - picture_before) - (truth_after - truth_before)``:
    0 when the picture changes exactly as the truth does, however wrong it is as a still.
    """
    errors = [picture.astype(np.float32) - truth.astype(np.float32) for picture, truth in (before, after)]
    return float(np.sqrt(np.mean((errors[1] - errors[0]) ** 2)))


def temporal_summary(blurred: list[float], restored: list[float]) -> dict[str, float]:
    """Mean ``change_error`` of the blurred input and of the output, and between how many frames it grew."""
    return {
        "changes": len(blurred),
        "temporal_blurred": float(np.mean(blurred)),
        "temporal_restored": float(np.mean(restored)),
        "temporal_worse": sum(r > b for b, r in zip(blurred, restored, strict=True)),
    }
