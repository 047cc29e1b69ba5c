"""``fastiqa eval``: how well networks and metrics agree with people, on labelled data sets.

Triplets: metrics, a network or given predictions beside what people preferred. Rated images: trained networks beside
the scores of people. `fastiqa.cli.render` lists the keys of the JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastiqa.cli.options import LPIPS_HELP, Device, chosen_device, chosen_dtype, refuse, warn_if_untrained
from fastiqa.common.text import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fastiqa.data import Triplet
    from fastiqa.evaluation.rated import RatedEvaluation
    from fastiqa.evaluation.triplets import Evaluation


def eval_command(
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
        str | None,
        typer.Option("--rule", help="For synth: triplets labelled by quality, or by metric; default: both."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="psnr, ssim, ms-ssim, the default; ms-ssim-rgb, none; with the extra `weights` ssimulacra2, gmsd, "
            "haarpsi, iw-ssim, psnr-hvs-m; repeatable.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="A PRFNet, for rated images an MFENet, written by fastiqa.save_model."
        ),
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option("--lpips", metavar="[FILE]", help=LPIPS_HELP),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="CSV", help="Score these rows O,A,B,P and read no images."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="CSV",
            help="Write the network's decisions in CLIC's format, and its probabilities to NAME.probabilities.csv.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="For triplets: a PRFNet with published weights: fastiqa models."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="nearness|REGEX",
            help="For triplets: groups by the distance of the labels from 1/2, or by whether the regular expression "
            "finds the same in the names of A and B; default: the data set's own.",
        ),
    ] = None,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions",
            help="For triplets: labels above 1/2 count as 1 and others as 0, so that the score is the accuracy and can "
            "reach 1; triplets of 1/2 are left out.",
        ),
    ] = False,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="For triplets: intervals by resampling originals; the last predictor's differences from the others.",
        ),
    ] = False,
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="FOLDER", help="For rated images: a run of fastiqa train mfenet; repeatable."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="CSV", help="For rated images: write all measures of every run.")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="The networks' dtype: float32, bfloat16, float16 or float64.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object a predictor or run.")] = False,
) -> int:
    """Say how well metrics and networks agree with people.

    Triplets: the 2AFC score, how often a metric or network picks the image that people pick, with its 95 % interval and
    by type of distortion where the data set has types; and how often the network is consistent when A and B change
    places. CLIC's triplets count as often as they stand in the file.

    Rated images: SRCC and PLCC after a logistic fit, over all images and by type, as Markdown. The csv also has KRCC,
    RMSE and the PLCC without a fit. On its own training set, a run is tested on the images that its split left out; on
    another set, on all images. Several runs, such as one a split, give their median. With --weights, a network is
    tested on all images, for its file does not say what it was trained on.
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
        "--model": model,
        "--group-by": group_by,
        "--decisions": decisions,
        "--bootstrap": bootstrap,
    }
    of_rated = {"--run": run, "--csv": table}
    rated = dataset in SETS
    foreign = of_triplets if rated else of_rated
    if given := [name for name, value in foreign.items() if value]:
        want = "--run, --weights, --csv, --device, --dtype and --json alone" if rated else "rated images"
        return refuse(f"{given[0]}: got it with {dataset}, want {want}")
    if rated:
        return _rated(dataset, path, run or [], weights, table, device, dtype, as_json)
    options = metric, model or weights, lpips, predictions
    if model and weights:
        return refuse("--model: got it with --weights, want one of them")
    grouping = group_by, decisions, bootstrap
    return _triplets(dataset, path, images, split or "val", rule, *options, write, *grouping, device, dtype, as_json)


# ---- triplets ----


def _triplets(
    dataset: str,
    path: Path,
    images: Path | None,
    split: str,
    rule: str | None,
    metrics: list[str] | None,
    weights: Path | str | None,
    lpips: Path | None,
    predictions: Path | None,
    write: Path | None,
    group_by: str | None,
    decisions: bool,
    bootstrap: bool,
    device: str,
    dtype: str,
    as_json: bool,
) -> int:
    """Return the exit status; arguments as the options of those names, weights a file or the name of published ones."""
    import torch

    from fastiqa.cli.render import preferences_json, print_preferences
    from fastiqa.common import arguments
    from fastiqa.data.triplets.predictions import write_decisions, write_predictions
    from fastiqa.evaluation.bootstrap import resampled
    from fastiqa.evaluation.preferences import MORE, PREFERENCES
    from fastiqa.evaluation.triplets import decided

    try:
        for name in metrics or ():
            arguments.one_of("--metric", name, (*PREFERENCES, *MORE, "none"))
        if write is not None and weights is None:
            raise ValueError("--write: got a file, want --weights too, whose predictions are written")
        where = chosen_device(device), chosen_dtype(dtype)
        triplets, folder = _read_triplets(dataset, path, images, split, rule, check_files=predictions is None)
        triplets = _grouped(triplets, group_by)
        if decisions:
            triplets = decided(triplets)
        results = _preferences(triplets, folder, metrics, weights, lpips, predictions, *where)
        if write is not None:
            preferences = results[-1].preferences
            write_decisions(write, triplets, (preferences > 0).tolist(), folder)
            beside = write.with_name(f"{write.stem}.probabilities{write.suffix}")
            write_predictions(beside, triplets, torch.sigmoid(preferences).tolist(), folder)
        if bootstrap:
            results = resampled(results, triplets)
    except (ImportError, OSError, ValueError) as error:
        return refuse(" ".join(str(error).split()))
    if as_json:
        print(preferences_json(results))
    else:
        print_preferences(results)
    return 0


def _read_triplets(
    dataset: str, path: Path, images: Path | None, split: str, rule: str | None, check_files: bool
) -> tuple[list[Triplet], Path]:
    """Return the triplets, and the folder that CLIC's format names files relative to."""
    from fastiqa.common import arguments
    from fastiqa.data import SETS, read_clic
    from fastiqa.data.triplets.sets import TRIPLET_SETS

    arguments.one_of("DATASET", dataset, (*TRIPLET_SETS, *SETS))
    if rule is not None and dataset != "synth":
        raise ValueError(f"--rule: got {rule!r}, want it for synth alone, not for {dataset}")
    if dataset == "clic":
        triplets = read_clic(path, images, average_duplicates=False, check_files=check_files)
        return triplets, images if images is not None else path.parent
    if images is not None:
        raise ValueError(f"IMAGES: got {str(images)!r}, want none for {dataset}: its folder has a fixed layout")
    return TRIPLET_SETS[dataset].read(path, split, **({"rule": rule} if rule else {})), path


def _grouped(triplets: list[Triplet], group_by: str | None) -> list[Triplet]:
    from fastiqa.evaluation.triplets import by_names, by_nearness

    if group_by is None:
        return triplets
    try:
        return by_nearness(triplets) if group_by == "nearness" else by_names(triplets, group_by)
    except ValueError as error:
        raise ValueError(f"--group-by{str(error).removeprefix('pattern')}") from None


def _preferences(
    triplets: list[Triplet],
    folder: Path,
    metrics: list[str] | None,
    weights: Path | str | None,
    lpips: Path | None,
    predictions: Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Evaluation]:
    """Evaluate metrics, then LPIPS, then the network; or the given predictions alone."""
    import torch

    from fastiqa.cli.render import progress_bars
    from fastiqa.data.triplets.predictions import read_predictions
    from fastiqa.evaluation.networks import prepare_for_inference
    from fastiqa.evaluation.preferences import MORE, PREFERENCES, Preference, load_lpips, negative_lpips
    from fastiqa.evaluation.triplets import evaluate_triplets, evaluation_of
    from fastiqa.models import create_model, load_model

    if predictions is not None:
        values = torch.tensor(read_predictions(predictions, triplets, folder), dtype=torch.float64, device="cpu")
        return [evaluation_of(predictions.name, values - 0.5, triplets)]
    known = PREFERENCES | {name: Preference(metric) for name, metric in MORE.items()}
    predictors: dict[str, Any] = {name: known[name] for name in metrics or _usual(triplets) if name != "none"}
    if lpips is not None:
        predictors["lpips"] = Preference(negative_lpips(load_lpips(lpips).to(device)))
    if weights is not None:
        model: Any = load_model(weights) if isinstance(weights, Path) else create_model(weights, pretrained=True).eval()
        if not hasattr(model, "compare"):
            raise ValueError(f"--weights: {weights}: holds a {type(model).__name__}, want a PRFNet")
        warn_if_untrained(model, weights)
        predictors[weights.name if isinstance(weights, Path) else weights] = prepare_for_inference(model, device, dtype)
    if not predictors:
        raise ValueError("--metric: got none, want a metric, --lpips, --weights or --predictions")
    with progress_bars() as bar:
        return evaluate_triplets(triplets, predictors, device=device, on_triplet=bar("triplets"))


def _usual(triplets: list[Triplet]) -> list[str]:
    """Return all metrics; without MS-SSIM, and a line that says so, where the first image is too small for it."""
    from fastiqa.data import read_image
    from fastiqa.evaluation.preferences import PREFERENCES
    from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL

    height, width = read_image(triplets[0].ref).pixels.shape[:2]
    if min(height, width) > LARGEST_SIDE_TOO_SMALL:
        return list(PREFERENCES)
    reason = f"{width}x{height} pixels, it needs both sides greater than {LARGEST_SIDE_TOO_SMALL}"
    print(one_line(f"ms-ssim is left out: {triplets[0].ref} has {reason}"), file=sys.stderr)
    return [name for name in PREFERENCES if name != "ms-ssim"]


# ---- rated images ----


def _rated(
    dataset: str,
    folder: Path,
    runs: list[Path],
    weights: Path | None,
    table: Path | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> int:
    """Return the exit status.

    Args:
        dataset, folder: a name of `fastiqa.data.SETS`, and where that set lies.
        runs: folders of runs of ``fastiqa train``.
        weights: a network's file, evaluated on all images.
        table: where all measures are written as CSV.
        device, dtype, as_json: as the options of those names.
    """
    from fastiqa.cli.render import print_rated, rated_json
    from fastiqa.evaluation.rated import medians
    from fastiqa.evaluation.tables import write_csv

    try:
        if not runs and weights is None:
            raise ValueError("--run: got none, want the folder of a run, whose network is evaluated, or --weights")
        where, number_type = chosen_device(device), chosen_dtype(dtype)
        evaluations = _evaluate_rated(dataset, folder, runs, weights, where, number_type)
        summaries = medians(evaluations) if len(runs) > 1 else evaluations
        if len(runs) > 1:
            evaluations += summaries
        if table is not None:
            write_csv(table, evaluations)
    except (ImportError, OSError, ValueError) as error:
        return refuse(error)
    if as_json:
        print(rated_json(evaluations))
    else:
        print_rated(summaries)
    return 0


def _evaluate_rated(
    dataset: str, folder: Path, runs: list[Path], weights: Path | None, device: torch.device, dtype: torch.dtype
) -> list[RatedEvaluation]:
    """Evaluate the runs, then the network's file."""
    from fastiqa.cli.render import progress_bars
    from fastiqa.evaluation.networks import prepare_for_inference
    from fastiqa.models import MFENet, load_model
    from fastiqa.training.finished_runs import evaluate_run, evaluate_weights

    def network(file: Path) -> nn.Module:
        model = load_model(file)
        if not isinstance(model, MFENet):
            got = type(model).__name__
            raise ValueError(f"{file}: holds a {got}, want a network that scores single images: MFENet")
        warn_if_untrained(model, file)
        return prepare_for_inference(model, device, dtype)

    evaluations = []
    with progress_bars() as bar:
        for run in [*runs, *([] if weights is None else [weights])]:
            evaluate = evaluate_weights if run is weights else evaluate_run
            evaluations.append(evaluate(run, dataset, folder, device=device, network=network, on_image=bar(str(run))))
    return evaluations
