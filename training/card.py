# SPDX-License-Identifier: Apache-2.0
"""The model card of a preset, from its manifest: ``python -m training.card --preset nano``.

Every figure in it is read from the manifest, so that the two cannot disagree. Writes engines/PRESET/README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from crispstream.errors import CrispStreamError
from crispstream.manifest import Manifest, load
from crispstream.model.presets import PRESETS, preset

MEANT_FOR = {
    "nano": "the smallest preset, for two CPU cores at 640x360 and for small boards",
    "small": "the middle preset, for Jetson Orin and small GPUs",
    "base": "quality first, for desktop GPUs",
}
SETS = {
    "real_pairs": "real pairs: means of 8 to 10 frames at 240 fps",
    "averaged_240fps": "means of 7 to 13 frames at 240 fps, in linear light",
    "averaged_codes": "the same of their codes, as other films are averaged",
    "davis": "film of a dancer, blurred by us, 4 to 16 pixels",
    "photographs": "validation photographs, blurred by us, noise and compression included",
}
TEMPLATE = Path(__file__).with_name("card.md")


def card(engine: Manifest) -> str:
    """The text. Raises KeyError naming a figure that the manifest lacks."""
    training, quality = engine.training, engine.quality
    costs = engine.macs_per_pixel
    total = sum(costs.values())
    return TEMPLATE.read_text(encoding="utf-8").format(
        preset=engine.preset,
        meant_for=MEANT_FOR[engine.preset],
        guide="; a guide that restores the frame at half its size first" if preset(engine.preset).guide else "",
        macs=total,
        encoder=costs["encoder"],
        gmacs=total * 640 * 360 / 1e9,
        parameters=engine.parameters,
        megabytes=engine.weights_path.stat().st_size / 1e6,
        remarks="".join(f"\n{remark}\n" for remark in training.get("remarks", [])),
        sets="\n".join(_set_row(SETS[name], quality[name]) for name in SETS if name in quality),
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(quality)),
        failures=_failures(quality["failures"]),
        **{name: value for name, value in ({"updates": training["steps"]} | training).items() if name != "remarks"},
    )


def _set_row(name: str, of: dict[str, Any]) -> str:
    return (
        f"| {name} | {of['pictures']} | {of['psnr_blurred']:.2f} | {of['psnr_restored']:.2f} | **{of['gain']:+.2f}** "
        f"| {of['worse']} | {of['ssim_blurred']:.4f} to {of['ssim_restored']:.4f} |"
    )


def _figures(quality: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name in ("davis", "photographs"):
        if name in quality:
            person, rest = quality[name]["gain_person"], quality[name]["gain_background"]
            rows.append((f"gain inside and outside the person, {SETS[name]}", f"{person:+.2f} and {rest:+.2f} dB"))
    if "photographs" in quality:
        rows.append(("person mask, intersection over union, photographs", f"{quality['photographs']['mask_iou']:.2f}"))
    for name in SETS:
        if name in quality:
            mean, worst = quality[name]["no_harm_psnr"], quality[name]["no_harm_worst"]
            rows.append((f"sharp input, output against input, {SETS[name]}", f"{mean:.1f} dB, worst {worst:.1f}"))
    if film := quality.get("temporal_240fps"):
        change = f"{film['temporal_blurred']:.2f} to {film['temporal_restored']:.2f} codes"
        rows.append(("temporal error, 240 fps films, blurred to restored", change))
    return rows


def _failures(cases: dict[str, dict[str, float]]) -> str:
    lines = ["| case | blurred | restored |", "| --- | --- | --- |"]
    lines += [f"| {name} | {of['blurred']:.2f} dB | {of['restored']:.2f} dB |" for name, of in cases.items()]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--engine", type=Path, help="engine folder (default: engines/PRESET)")
    arguments = parser.parse_args()
    folder = arguments.engine or Path("engines") / arguments.preset
    try:
        (folder / "README.md").write_text(card(load(folder)), encoding="utf-8")
    except CrispStreamError as error:
        sys.exit(f"error: {error}")
    except KeyError as error:
        sys.exit(f"error: {folder / 'manifest.json'} lacks {error}: export with --training and --quality")


if __name__ == "__main__":
    main()
