"""How well a network ranks the levels of the distortions of photographs that it has not seen, type by type.

    python examples/rank_levels.py RUN PHOTOGRAPHS [PART [GRID]]

RUN is the folder of a run of ``fastiqa train mfenet_small``; PART of PHOTOGRAPHS, by default test, is that of the split
that the run was trained with. The data set is the one that the run was validated on, but for the part, and for GRID,
which takes GRID² windows of each photograph. Writes PART.csv into RUN, all measures of `fastiqa.evaluation.tables`, and
prints two SRCC with the recipe's target, the level or a teacher's score, for each type, and their means:

all       of all images of the type, of every photograph and level: do scores compare across photographs? It is the
          "srcc_of_types" of the run's log, but for the random choices of the distortions, which change with the epoch,
          and for the computation in float32.
within    of the five levels on one photograph, the mean over photographs: are its levels in their order? Levels that
          all score the same count as 0.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastiqa.data.rated.dataset import RatedImage
from fastiqa.evaluation.rated import evaluate_rated
from fastiqa.evaluation.tables import write_csv
from fastiqa.models import load_model
from fastiqa.training import read_recipe
from fastiqa.training.run.setup import build_datasets
from fastiqa.training.tasks import TASKS

AT_ONCE = 8  # items in a batch, which bounds the memory that they need


@torch.inference_mode()
def scored(run: Path, photographs: str, part: str, grid: str | None) -> tuple[Tensor, list[RatedImage]]:
    """The scores that the run's network gives a part of the photographs, distorted as the recipe says."""
    change = {"folder": photographs, "part": part, "types": "false"} | ({"grid": grid} if grid else {})
    recipe = read_recipe(run / "recipe.yaml", [f"data.held_out.{name}={value}" for name, value in change.items()])
    dataset: Any = build_datasets(recipe, {})["held_out"]
    module = TASKS[recipe.task].module(load_model(run / "model.safetensors")).eval()
    loader = torch.utils.data.DataLoader(dataset, AT_ONCE)
    mine, targets = zip(*((module(images).score, score) for images, score in loader), strict=True)
    records = [
        record._replace(score=score) for record, score in zip(dataset.records, torch.cat(targets).tolist(), strict=True)
    ]
    return torch.cat(mine), records


def within_photographs(scores: Tensor, records: list[RatedImage]) -> dict[str, float]:
    """Type of distortion: the mean of the photographs' SRCC."""
    alone = [record._replace(group=f"{record.reference}\0{record.group}") for record in records]
    by_type = defaultdict(list)
    for name, of in evaluate_rated(scores, alone, method="", dataset="").groups.items():
        by_type[name.split("\0")[1]].append(0.0 if math.isnan(of.srcc) else of.srcc)
    return {name: statistics.fmean(srcc) for name, srcc in by_type.items()}


def main() -> None:
    run, photographs, *rest = sys.argv[1:]
    part = rest[0] if rest else "test"
    grid = rest[1] if len(rest) > 1 else None
    scores, records = scored(Path(run), photographs, part, grid)
    evaluation = evaluate_rated(scores, records, method=Path(run).name, dataset=photographs, split=part)
    write_csv(Path(run) / f"{part}.csv", [evaluation])
    within = within_photographs(scores, records)
    rows = {name: (of.srcc, within[name]) for name, of in evaluation.groups.items() if not math.isnan(of.srcc)}
    print(f"{'SRCC':24} {'all':>6} {'within':>6}")
    for name, (over_all, of_photographs) in rows.items():
        print(f"{name:24} {over_all:6.3f} {of_photographs:6.3f}")
    print(f"{'mean of types':24} {' '.join(f'{statistics.fmean(of):6.3f}' for of in zip(*rows.values(), strict=True))}")


if __name__ == "__main__":
    main()
