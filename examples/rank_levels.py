"""How well a network ranks the levels of the distortions of photographs that it has not seen, type by type.

    python examples/rank_levels.py RUN[,RUN...] PHOTOGRAPHS [PART [GRID]]

RUN is the folder of a run of ``fastiqa train mfenet_lite`` or another network's recipe; several, of one recipe with
several seeds, see the same images, which are distorted once. PART of PHOTOGRAPHS, by default test, is that of the split
that the run was trained with. The data set is the one that the run was validated on, but for the part, and for GRID,
which takes GRID² windows of each photograph. Writes PART.csv into RUN, all measures of `fastiqa.evaluation.tables`, and
prints two SRCC with the recipe's target, the level or a teacher's score, for each type, and their means:

all       of all images of the type, of every photograph and level: do scores compare across photographs? It is the
          "srcc_of_types" of the run's log, but for the random choices of the distortions, which change with the epoch,
          and for the computation in float32.
within    of the five levels on one photograph, the mean over photographs: are its levels in their order? Levels that
          all score the same count as 0.

The means' 95 % intervals resample the photographs. The last row is the SRCC of all images of all types together: do
scores compare across distortions?
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastiqa.data.rated.dataset import RatedImage
from fastiqa.evaluation.rated import evaluate_rated
from fastiqa.evaluation.tables import write_csv
from fastiqa.metrics.correlation import srcc
from fastiqa.models import load_model
from fastiqa.training import read_recipe
from fastiqa.training.run.setup import build_datasets
from fastiqa.training.tasks import TASKS

AT_ONCE = 8  # items in a batch, which bounds the memory that they need
DRAWS = 1000  # of photographs, for the intervals


@torch.inference_mode()
def scored(runs: list[Path], photographs: str, part: str, grid: str | None) -> tuple[list[Tensor], list[RatedImage]]:
    """The scores that each run's network gives a part of the photographs, distorted as the recipe says."""
    change = {"folder": photographs, "part": part, "types": "false"} | ({"grid": grid} if grid else {})
    recipe = read_recipe(runs[0] / "recipe.yaml", [f"data.held_out.{name}={value}" for name, value in change.items()])
    dataset: Any = build_datasets(recipe, {})["held_out"]
    modules = [TASKS[recipe.task].module(load_model(run / "model.safetensors")).eval() for run in runs]
    loader = torch.utils.data.DataLoader(dataset, AT_ONCE)
    found = [(torch.stack([module(images).score for module in modules]), score) for images, score in loader]
    mine, targets = zip(*found, strict=True)
    records = [
        record._replace(score=score) for record, score in zip(dataset.records, torch.cat(targets).tolist(), strict=True)
    ]
    return list(torch.cat(mine, 1)), records


def within_photographs(scores: Tensor, records: list[RatedImage]) -> dict[str, float]:
    """Type of distortion: the mean of the photographs' SRCC."""
    alone = [record._replace(group=f"{record.reference}\0{record.group}") for record in records]
    by_type = defaultdict(list)
    for name, of in evaluate_rated(scores, alone, method="", dataset="").groups.items():
        by_type[name.split("\0")[1]].append(0.0 if math.isnan(of.srcc) else of.srcc)
    return {name: statistics.fmean(srcc) for name, srcc in by_type.items()}


def intervals(scores: Tensor, records: list[RatedImage]) -> list[tuple[float, float]]:
    """95 % intervals of the means over types of "all" and of "within", by resampling photographs."""
    photographs = sorted({record.reference for record in records})
    types = sorted({record.group for record in records} - {"none"})
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        rows[record.group, record.reference].append(row)
    mine, theirs = scores.double().numpy(), np.array([record.score for record in records])

    def of(rows_of: NDArray[np.int64]) -> float:
        value = srcc(mine[rows_of], theirs[rows_of])
        return 0.0 if math.isnan(value) else value

    of_each = {name: np.array([rows[name, photograph] for photograph in photographs]) for name in types}
    within = {name: np.array([of(levels) for levels in of_each[name]]) for name in types}
    random, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = random.integers(0, len(photographs), len(photographs))
        draws.append([
            statistics.fmean(of(of_each[name][drawn].ravel()) for name in types),
            statistics.fmean(within[name][drawn].mean() for name in types),
        ])  # fmt: skip
    return [(float(low), float(high)) for low, high in np.percentile(draws, (2.5, 97.5), axis=0).T]


def report(run: Path, photographs: str, part: str, scores: Tensor, records: list[RatedImage]) -> None:
    """Write the table of a run's measures into its folder, and print the SRCC."""
    evaluation = evaluate_rated(scores, records, method=run.name, dataset=photographs, split=part)
    write_csv(run / f"{part}.csv", [evaluation])
    within = within_photographs(scores, records)
    rows = {name: (of.srcc, within[name]) for name, of in evaluation.groups.items() if not math.isnan(of.srcc)}
    print(f"{f'SRCC of {run.name}':24} {'all':>6} {'within':>6}")
    for name, (over_all, of_photographs) in rows.items():
        print(f"{name:24} {over_all:6.3f} {of_photographs:6.3f}")
    means = [statistics.fmean(of) for of in zip(*rows.values(), strict=True)]
    print(f"{'mean of types':24} {' '.join(f'{mean:6.3f}' for mean in means)}")
    for name, (low, high) in zip(("all", "within"), intervals(scores, records), strict=True):
        print(f"{f'95 % interval, {name}':24} {low:6.3f} to {high:.3f}")
    print(f"{'all types together':24} {evaluation.overall.srcc:6.3f}")


def main() -> None:
    names, photographs, *rest = sys.argv[1:]
    part = rest[0] if rest else "test"
    grid = rest[1] if len(rest) > 1 else None
    runs = [Path(name) for name in names.split(",")]
    of_runs, records = scored(runs, photographs, part, grid)
    for run, scores in zip(runs, of_runs, strict=True):
        report(run, photographs, part, scores, records)


if __name__ == "__main__":
    main()
