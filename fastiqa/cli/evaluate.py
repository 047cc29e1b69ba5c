"""``fastiqa eval`` on triplets: metrics, a network or given predictions beside what people preferred."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fastiqa.common import arguments
from fastiqa.common.text import one_line
from fastiqa.data import SETS, Triplet, read_clic, read_image
from fastiqa.data.triplets.predictions import read_predictions, write_decisions, write_predictions
from fastiqa.data.triplets.sets import TRIPLET_SETS
from fastiqa.evaluation.networks import chosen_device, chosen_dtype, ready, warn_if_untrained
from fastiqa.evaluation.preferences import PREFERENCES, load_lpips, negative_lpips, preference
from fastiqa.evaluation.triplets import Evaluation, evaluate_triplets, scored
from fastiqa.metrics.ms_ssim import LARGEST_SIDE_TOO_SMALL
from fastiqa.models import load_model


def evaluate_dataset(
    dataset: str,
    path: Path,
    images: Path | None,
    *,
    split: str,
    rule: str | None,
    metrics: list[str] | None,
    weights: Path | None,
    lpips: Path | None,
    predictions: Path | None,
    write: Path | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> int:
    """Exit status of ``fastiqa eval``; arguments as the options of those names."""
    try:
        for name in metrics or ():
            arguments.one_of("--metric", name, (*PREFERENCES, "none"))
        if write is not None and weights is None:
            raise ValueError("--write: got a file, want --weights too, whose predictions are written")
        where = chosen_device(device), chosen_dtype(dtype)
        triplets, folder = _triplets(dataset, path, images, split, rule, check_files=predictions is None)
        results = _results(triplets, folder, metrics, weights, lpips, predictions, *where)
        if write is not None:
            preferences = results[-1].preferences
            write_decisions(write, triplets, (preferences > 0).tolist(), folder)
            beside = write.with_name(f"{write.stem}.probabilities{write.suffix}")
            write_predictions(beside, triplets, torch.sigmoid(preferences).tolist(), folder)
    except (OSError, ValueError) as error:
        print("error:", one_line(" ".join(str(error).split())), file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps([_as_dict(result) for result in results], indent=2))
    else:
        _print(results)
    return 0


def _triplets(
    dataset: str, path: Path, images: Path | None, split: str, rule: str | None, check_files: bool
) -> tuple[list[Triplet], Path]:
    """Triplets, and the folder that CLIC's format names files relative to."""
    arguments.one_of("DATASET", dataset, (*TRIPLET_SETS, *SETS))
    if rule is not None and dataset != "synth":
        raise ValueError(f"--rule: got {rule!r}, want it for synth alone, not for {dataset}")
    if dataset == "clic":
        triplets = read_clic(path, images, average_duplicates=False, check_files=check_files)
        return triplets, images if images is not None else path.parent
    if images is not None:
        raise ValueError(f"IMAGES: got {str(images)!r}, want none for {dataset}: its folder has a fixed layout")
    return TRIPLET_SETS[dataset].read(path, split, **({"rule": rule} if rule else {})), path


def _results(
    triplets: list[Triplet],
    folder: Path,
    metrics: list[str] | None,
    weights: Path | None,
    lpips: Path | None,
    predictions: Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Evaluation]:
    """Metrics first, then what was asked for."""
    if predictions is not None:
        values = torch.tensor(read_predictions(predictions, triplets, folder), dtype=torch.float64, device="cpu")
        return [scored(predictions.name, values - 0.5, triplets)]
    predictors: dict[str, Any] = {name: PREFERENCES[name] for name in metrics or _usual(triplets) if name != "none"}
    if lpips is not None:
        predictors["lpips"] = preference(negative_lpips(load_lpips(lpips).to(device)))
    if weights is not None:
        model: Any = load_model(weights)
        if not hasattr(model, "compare"):
            raise ValueError(f"--weights: {weights}: holds a {type(model).__name__}, want a PRFNet")
        warn_if_untrained(model, weights)
        predictors[weights.name] = ready(model, device, dtype)
    if not predictors:
        raise ValueError("--metric: got none, want a metric, --lpips, --weights or --predictions")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("triplets")
        return evaluate_triplets(
            triplets,
            predictors,
            device=device,
            on_triplet=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _usual(triplets: list[Triplet]) -> list[str]:
    """All metrics; without MS-SSIM, and a line that says so, where the first image is too small for it."""
    height, width = read_image(triplets[0].ref).pixels.shape[:2]
    if min(height, width) > LARGEST_SIDE_TOO_SMALL:
        return list(PREFERENCES)
    reason = f"{width}x{height} pixels, it needs both sides greater than {LARGEST_SIDE_TOO_SMALL}"
    print(one_line(f"ms-ssim is left out: {triplets[0].ref} has {reason}"), file=sys.stderr)
    return [name for name in PREFERENCES if name != "ms-ssim"]


def _as_dict(result: Evaluation) -> dict[str, Any]:
    return {
        "predictor": result.name,
        **result.overall._asdict(),
        "swap_consistency": result.swap_consistency,
        "groups": {group: score._asdict() for group, score in result.groups.items()},
    }


def _print(results: list[Evaluation]) -> None:
    """A table: a column a predictor, a row a group, and the interval of 95 %."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("2AFC score")
    table.add_column("triplets", justify="right")
    for result in results:
        table.add_column(Text(one_line(result.name)), justify="right", no_wrap=True)
    first = results[0]
    for group in first.groups:
        scores = [result.groups[group] for result in results]
        table.add_row(Text(one_line(group)), str(scores[0].triplets), *(f"{score.score:.4f}" for score in scores))
    if first.groups:
        table.add_section()
    table.add_row("all", str(first.overall.triplets), *(f"{result.overall.score:.4f}" for result in results))
    intervals = (f"{result.overall.low:.3f}–{result.overall.high:.3f}" for result in results)
    table.add_row("95 % interval", "", *intervals)
    if any(result.swap_consistency is not None for result in results):
        shares = ("" if r.swap_consistency is None else f"{r.swap_consistency:.4f}" for r in results)
        table.add_row("consistent when swapped", "", *shares)
    needed = 40 + sum(max(len(result.name), len("0.000–1.000")) + 3 for result in results)
    console = Console(highlight=False)
    if console.width < needed:  # whatever COLUMNS says, rather than "0.7..."
        console = Console(highlight=False, width=needed)
    console.print(table)
