"""``fastiqa score``: the quality of images without a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images, and folders of them.", show_default=False)
    ],
    weights: Annotated[
        Path,
        typer.Option("--weights", metavar="FILE", help="An MFENet written by fastiqa.save_model.", show_default=False),
    ],
    model: Annotated[str, typer.Option("--model", help="mfenet, the only one so far.")] = "mfenet",
    crops: Annotated[
        int | None,
        typer.Option("--crops", min=1, help="Mean over so many random crops; default: the whole image, once."),
    ] = None,
    crop_size: Annotated[int, typer.Option("--crop-size", min=32, help="Sides of a crop in pixels.")] = 224,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the crops' places.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="That the network computes in: float32, bfloat16, float16, float64.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows image,score.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Exit with 0, not 1, where some images cannot be scored.")
    ] = False,
) -> None:
    """Say how good images are, without a reference.

    A number each, larger is better, on the scale of the scores that the network was trained on. It does not depend on
    what else is scored. Rows are printed as they come; images that cannot be scored are named on stderr.
    """
    from fastiqa.cli.quality import score_files
    from fastiqa.data import TestCrops

    status = score_files(
        images,
        model=model,
        weights=weights,
        crops=None if crops is None else TestCrops(crops, crop_size, seed),
        device=device,
        dtype=dtype,
        as_json=as_json,
        as_csv=as_csv,
        skip_bad=skip_bad,
    )
    raise typer.Exit(status)
