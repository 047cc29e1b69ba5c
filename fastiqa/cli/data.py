"""``fastiqa data``: labelled data sets on the disk, checked or made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastiqa.cli.features import features_command
from fastiqa.cli.options import refuse
from fastiqa.cli.synth import synth_command

if TYPE_CHECKING:
    from typing import Any

    from fastiqa.data import LabelReport

app = typer.Typer(name="data", help="Labelled data sets: check one, make one.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Labelled data sets: check one, make one."""


app.command("synth")(synth_command)
app.command("features")(features_command)


@app.command("check")
def check_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Triplets: clic, bapps, pieapp, synth. "
            "Rated images: live, csiq, tid2013, kadid10k, livec, koniq10k, spaq, flive.",
            show_default=False,
        ),
    ],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="CLIC's csv of O,A,B,T; else the folder.", show_default=False)
    ],
    images: Annotated[
        Path | None, typer.Argument(metavar="[IMAGES]", help="CLIC's folder of images or archives; default: the csv's.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="train, val, test (PieAPP); repeatable; default: all there are.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also read every image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object for each split.")] = False,
) -> int:
    """Count what a data set holds and name what cannot be used: missing files, bad labels, bad rows.

    The exit status is 0 if everything can be used, 1 if there is a problem.
    """
    try:
        reports = _reports(dataset, path, images, split)
    except (OSError, ValueError, ImportError) as error:
        return refuse(" ".join(str(error).split()))
    if decode:
        reports = [_decoded(report) for report in reports]
    if as_json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(map(str, reports)))
    return 0 if all(report.records and not report.problems for report in reports) else 1


def _decoded(report: LabelReport[Any]) -> LabelReport[Any]:
    """Return the report after every image was read, with a progress bar on stderr."""
    from fastiqa.cli.render import progress_bars
    from fastiqa.data import decode

    with progress_bars() as bar:
        return decode(report, on_image=bar(report.dataset))


def _reports(dataset: str, path: Path, images: Path | None, split: list[str] | None) -> list[LabelReport[Any]]:
    """Return a report for each split, or one for CLIC and sets of rated images."""
    from fastiqa.common import arguments
    from fastiqa.data import SETS
    from fastiqa.data.triplets.sets import TRIPLET_SETS

    arguments.one_of("DATASET", dataset, (*TRIPLET_SETS, *SETS))
    if split and dataset == "clic":
        raise ValueError(f"--split: got {split[0]!r}, want none: CLIC's splits are separate csv files")
    if split and dataset in SETS:
        raise ValueError(f"--split: got {split[0]!r}, want none: the whole of {dataset} is checked")
    if dataset == "clic":
        return [TRIPLET_SETS[dataset].check(path, images)]
    if images is not None:
        raise ValueError(f"IMAGES: got {str(images)!r}, want none for {dataset}: its folder has a fixed layout")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if dataset in SETS:
        return [SETS[dataset].check(path)]
    triplets = TRIPLET_SETS[dataset]
    return [triplets.check(path, name) for name in split or triplets.splits(path)]
