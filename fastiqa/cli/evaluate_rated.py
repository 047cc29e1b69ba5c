"""evaluate_runs: what ``fastiqa eval`` does on rated images, trained networks beside the scores of people.

JSON, a list with an object a run and, of several runs, one of their median; keys, which stay as they are:
    method, trained_on, dataset, split      as of `fastiqa.evaluation.rated.RatedEvaluation`
    overall                                 {"images", "plcc", "srcc", "krcc", "plcc_fitted", "rmse_fitted"}
    groups                                  {type of distortion: the same}; undefined measures are null
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from torch import nn

from fastiqa.common.text import one_line
from fastiqa.evaluation.networks import chosen_device, chosen_dtype, ready, warn_if_untrained
from fastiqa.evaluation.rated import Correlations, RatedEvaluation, medians
from fastiqa.evaluation.tables import markdown_table, markdown_table_by_group, write_csv
from fastiqa.models import MFENet, load_model
from fastiqa.training.finished_runs import evaluate_run, evaluate_weights


def evaluate_runs(
    dataset: str,
    folder: Path,
    runs: list[Path],
    weights: Path | None,
    table: Path | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> int:
    """Exit status.

    Args:
        dataset, folder: of `fastiqa.data.SETS`, and where it lies.
        runs: folders of runs of ``fastiqa train``.
        weights: a network's file, evaluated on all images.
        device, dtype: as the options of those names.
        table: where all measures are written as csv.
        as_json: print JSON instead of Markdown.
    """
    try:
        if not runs and weights is None:
            raise ValueError("--run: got none, want the folder of a run, whose network is evaluated, or --weights")
        where = chosen_device(device), chosen_dtype(dtype)
        evaluations = _evaluated(dataset, folder, runs, weights, *where)
        summaries = medians(evaluations) if len(runs) > 1 else evaluations
        if len(runs) > 1:
            evaluations += summaries
        if table is not None:
            write_csv(table, evaluations)
    except (ImportError, OSError, ValueError) as error:
        print("error:", one_line(str(error)), file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps([_as_dict(evaluation) for evaluation in evaluations], indent=2, allow_nan=False))
    else:
        print(*(f"{one_line(e.method)}, {e.dataset}: {_said(e)}" for e in summaries), sep="\n", end="\n\n")
        print(markdown_table(summaries))
        if any(evaluation.groups for evaluation in summaries):
            print(markdown_table_by_group(summaries))
    return 0


def _evaluated(
    dataset: str, folder: Path, runs: list[Path], weights: Path | None, device: torch.device, dtype: torch.dtype
) -> list[RatedEvaluation]:
    console = Console(stderr=True)

    def network(file: Path) -> nn.Module:
        model = load_model(file)
        if not isinstance(model, MFENet):
            raise ValueError(
                f"{file}: holds a {type(model).__name__}, want a network that scores single images: MFENet"
            )
        warn_if_untrained(model, file)
        return ready(model, device, dtype)

    evaluations = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for run in [*runs, *([] if weights is None else [weights])]:
            task = progress.add_task(escape(one_line(str(run))), total=None)

            def show(done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            evaluate = evaluate_weights if run is weights else evaluate_run
            evaluations.append(evaluate(run, dataset, folder, device=device, network=network, on_image=show))
    return evaluations


def _said(evaluation: RatedEvaluation) -> str:
    of = evaluation.overall
    split = evaluation.split if "median" in evaluation.split else f"split {evaluation.split}"
    return f"{of.images:.0f} images, {split}, KRCC {of.krcc:.3f}, RMSE {of.rmse_fitted:.3g} after the fit"


def _as_dict(evaluation: RatedEvaluation) -> dict[str, Any]:
    return {
        "method": evaluation.method,
        "trained_on": evaluation.trained_on,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "overall": _measures(evaluation.overall),
        "groups": {name: _measures(measures) for name, measures in evaluation.groups.items()},
    }


def _measures(measures: Correlations) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in measures._asdict().items()}
