"""How well a network ranks the levels of the distortions of photographs that it has not seen, type by type.

    python examples/rank_levels.py RUN PHOTOGRAPHS [PART]

RUN is the folder of a run of ``fastiqa train mfenet_small``; PART of PHOTOGRAPHS, by default test, is that of the split
that the run was trained with. The data set is the one that the run was validated on, but for the part. Writes PART.csv
into RUN, all measures of `fastiqa.metrics.rated_tables`, and prints the SRCC of each type and their mean. That is the
"srcc_of_types" of the run's log, but for the random choices of the distortions, which change with the epoch, and for
the computation in float32.
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from fastiqa.metrics.rated_evaluation import RatedEvaluation, evaluate_rated
from fastiqa.metrics.rated_tables import write_csv
from fastiqa.models import load_model
from fastiqa.training import read_recipe
from fastiqa.training.setup import build_datasets
from fastiqa.training.tasks import TASKS

AT_ONCE = 8  # items in a batch, which bounds the memory that they need


@torch.inference_mode()
def evaluated(run: Path, photographs: str, part: str) -> RatedEvaluation:
    """The run's network on a part of the photographs, distorted as the recipe says."""
    change = {"folder": photographs, "part": part, "types": "false"}
    recipe = read_recipe(run / "recipe.yaml", [f"data.held_out.{name}={value}" for name, value in change.items()])
    dataset: Any = build_datasets(recipe, {})["held_out"]
    module = TASKS[recipe.task].module(load_model(run / "model.safetensors")).eval()
    loader = torch.utils.data.DataLoader(dataset, AT_ONCE)
    scores = torch.cat([module(images).score for images, _ in loader])
    return evaluate_rated(scores, dataset.records, method=run.name, dataset=photographs, split=part)


def main() -> None:
    run, photographs, *rest = sys.argv[1:]
    part = rest[0] if rest else "test"
    evaluation = evaluated(Path(run), photographs, part)
    write_csv(Path(run) / f"{part}.csv", [evaluation])
    ranked = {name: of.srcc for name, of in evaluation.groups.items() if not math.isnan(of.srcc)}
    for name, srcc in ranked.items():
        print(f"{name:24} {srcc:.3f}")
    print(f"{'mean of types':24} {statistics.fmean(ranked.values()):.3f}")


if __name__ == "__main__":
    main()
