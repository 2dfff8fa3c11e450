# SPDX-License-Identifier: Apache-2.0
"""`crispstream compare`: before and after, to look at and in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from crispstream.commands.common import Debug, Json, Report


def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="Video or picture.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another of the same kind and size.")],
    output: Annotated[
        str | None, typer.Argument(metavar="[OUTPUT]", help="Where both are shown; without it there are figures only.")
    ] = None,
    mode: Annotated[
        Literal["side-by-side", "split", "difference"],
        typer.Option(help="Side by side; one picture, left before and right after; or after minus before, on grey."),
    ] = "side-by-side",
    reference: Annotated[str | None, typer.Option(metavar="PATH", help="The truth: gives PSNR and SSIM.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Show two videos or pictures beside each other, and measure both against the truth where there is one.

    Frames are paired in their order. PSNR (dB) and SSIM are those of the RGB pictures, 8 bits, mean over frames.
    """
    from crispstream.compare import compare as compare_files

    found = compare_files(
        Path(before),
        Path(after),
        Path(output) if output is not None else None,
        mode=mode,
        reference=Path(reference) if reference is not None else None,
        overwrite=overwrite,
    )
    lines = [f"{found['output']}: {found['frames']} frames"] if found["output"] else []
    for name in ("before", "after") if reference is not None else ():
        similarity = "" if found[name]["ssim"] is None else f", SSIM {found[name]['ssim']:.4f}"
        lines.append(f"{name:7}{_level(found[name]['psnr'])}{similarity}")
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return Report(found, "\n".join(lines))


def _level(psnr: float) -> str:
    from crispstream.metrics import IDENTICAL

    return "identical" if psnr >= IDENTICAL else f"PSNR {psnr:.2f} dB"
