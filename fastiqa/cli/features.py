"""``fastiqa data features``: options, progress bar and report; `fastiqa.evaluation.features` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastiqa.cli.options import Device, chosen_device, refuse
from fastiqa.common.text import one_line


def features_command(
    source: Annotated[
        Path, typer.Argument(metavar="SYNTH_FOLDER", help="What fastiqa data synth wrote.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="A PRFNet by name.")] = "prfnet_lite",
    backbone: Annotated[
        str, typer.Option("--pretrained-backbone", help="A file of the backbone's weights, or imagenet.")
    ] = "imagenet",
    first_stage_stride: Annotated[
        int, typer.Option("--first-stage-stride", help="Pixels per element of the finest map: 2 or 4.")
    ] = 4,
    crop: Annotated[int, typer.Option("--crop", help="Side of a crop in pixels.")] = 256,
    crops: Annotated[int, typer.Option("--crops", help="Crops of each photograph.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the crops' places.")] = 0,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="train, val, test; repeatable; default: all.")
    ] = None,
    device: Device = "auto",
) -> int:
    """Compute a frozen backbone's features of labelled triplets once, to train a head on them.

    A photograph and its codings share their crops. After an interruption, run the same command again: it keeps complete
    splits. fastiqa train prfnet_lite reads the result.
    """
    from fastiqa.cli.render import progress_bars
    from fastiqa.data.synth.table import SPLITS
    from fastiqa.evaluation.features import write_features
    from fastiqa.models import create_model

    try:
        network = create_model(model, pretrained_backbone=backbone, first_stage_stride=first_stage_stride)
        with progress_bars() as bar:
            rows = write_features(
                network.to(chosen_device(device)),
                source,
                out,
                crop=crop,
                crops=crops,
                seed=seed,
                splits=split or SPLITS,
                on_image=bar("images"),
            )
    except (ImportError, OSError, TypeError, ValueError) as error:
        return refuse(" ".join(str(error).split()))
    listed = ", ".join(f"{count} {name}" for name, count in rows.items())
    print(one_line(f"{sum(rows.values())} rows ({listed}) in {out}"))
    return 0
