# SPDX-License-Identifier: Apache-2.0
"""`crispstream demo`: the main job on a photograph that comes with scikit-image, or on the user's own input."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from crispstream import manifest
from crispstream.commands.common import Debug, Json, PresetOption, Report, missing_extra


def demo(
    source: Annotated[str | None, typer.Option("--input", help="Your own picture or clip.")] = None,
    output: Annotated[str, typer.Option(help="Folder; nothing that no demo made is replaced in it.")] = "demo",
    preset: PresetOption = "nano",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that no demo made.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Blur and restore a photograph of a person, or restore your own picture or clip; leaves a before/after picture,
    a short video and the mask."""
    try:
        from crispstream.demo import run_demo

        if source is None:
            manifest.load(preset)  # a minute of waiting is not promised for what is not there
            print("crispstream: blurring and restoring a portrait; about a minute", file=sys.stderr)
        data = run_demo(source, output, preset, overwrite=overwrite, progress=not as_json)
    except ModuleNotFoundError as error:
        raise missing_extra(error, "demo", ("skimage", "scipy")) from error
    lines = [f"{data['fps']:.1f} fps, codecs included ({data['engine']})", *data["files"]]
    if data["psnr_restored"] is not None:
        lines.insert(0, f"PSNR {data['psnr_blurred']:.2f} dB blurred, {data['psnr_restored']:.2f} dB restored")
    return Report(data, "\n".join(lines))
