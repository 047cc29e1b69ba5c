"""``fastiqa eval``: how well networks and metrics agree with people, on labelled data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
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
        str | None,
        typer.Option(
            "--split", help="train, val or test; not for CLIC nor rated images; default: val.", metavar="PART"
        ),
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Of synth, triplets labelled by quality or by metric; default: both.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="psnr, ssim, ms-ssim or none; repeatable; default: all three.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="A PRFNet, or of rated images an MFENet, as save_model writes it."
        ),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option("--lpips", metavar="FILE", help="An LPIPS written by fastiqa.save_model, as a metric."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="CSV", help="Score these rows O,A,B,P instead; no images."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="CSV",
            help="Write the network's decisions in CLIC's format, and its probabilities to NAME.probabilities.csv.",
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="FOLDER", help="Of rated images: a run of fastiqa train mfenet; repeatable."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="CSV", help="Of rated images: write all measures of every run.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="That networks compute in: float32, bfloat16, float16, float64.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a predictor or run.")] = False,
) -> None:
    """Say how well metrics and networks agree with people.

    Triplets: how often they pick the image that people pick, the 2AFC score with its 95 % interval, for each type of
    distortion where the data set has types, and how often the network is consistent when A and B change places. CLIC's
    triplets count as often as they stand in the file.

    Rated images: SRCC and PLCC after a logistic fit, over all and by type, as Markdown; KRCC, RMSE and the PLCC without
    a fit too in the csv. On the set that a run was trained on they are of the images that its split left for the test,
    on another set of all images; of several runs, such as one a split, the median. With --weights a network is
    evaluated on all images, whatever it was trained on: nothing in its file says so.
    """
    from fastiqa.data import SETS

    of_triplets = {
        "IMAGES": images,
        "--split": split,
        "--rule": rule,
        "--metric": metric,
        "--lpips": lpips,
        "--predictions": predictions,
        "--write": write,
    }
    of_rated = {"--run": run, "--csv": table}
    foreign, wanted = (
        (of_triplets, "--run, --weights, --csv, --device, --dtype and --json alone")
        if dataset in SETS
        else (of_rated, "rated images")
    )
    if given := [name for name, value in foreign.items() if value]:
        print(f"error: {given[0]}: got it with {dataset}, want {wanted}", file=sys.stderr)
        raise typer.Exit(2)
    if dataset in SETS:
        from fastiqa.cli.evaluate_rated import evaluate_runs

        raise typer.Exit(evaluate_runs(dataset, path, run or [], weights, table, device, dtype, as_json))
    from fastiqa.cli.evaluate import evaluate_dataset

    status = evaluate_dataset(
        dataset,
        path,
        images,
        split=split or "val",
        rule=rule,
        metrics=metric,
        weights=weights,
        lpips=lpips,
        predictions=predictions,
        write=write,
        device=device,
        dtype=dtype,
        as_json=as_json,
    )
    raise typer.Exit(status)
