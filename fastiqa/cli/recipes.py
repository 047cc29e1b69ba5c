"""``fastiqa train`` and ``fastiqa pretrain``, put together; the training itself is in ``fastiqa.training``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from fastiqa.training import CheckpointError, DataError, RecipeError, TrainingError, read_recipe, train
from fastiqa.training.progress import ProgressBar
from fastiqa.training.recipe_file import as_yaml

PRETRAINING = {"dan": "dan_contrastive"}  # the recipe of each branch
REFUSALS = (CheckpointError, DataError, ImportError, OSError, RecipeError, TrainingError)


def train_recipe(
    recipe: str, overrides: list[str], *, out: Path | None, resume: bool, device: str | None, show: bool
) -> int:
    """Exit status of ``fastiqa train``.

    Args:
        recipe: name or file of a recipe.
        overrides: the options --set.
        out, resume, device, show: as the options of those names.
    """
    folder = out or Path("runs") / Path(recipe).stem
    first = os.environ.get("RANK", "0") == "0"
    try:
        wanted = read_recipe(recipe, overrides)
        if show:
            print(as_yaml(wanted), end="")
            return 0
        bar = [ProgressBar(Console(stderr=True))] if first else []
        weights = train(wanted, folder, resume=resume, device=device, observers=bar)
    except REFUSALS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; --resume goes on from the last checkpoint in {folder}", file=sys.stderr)
        return 130
    if first:
        print(weights)
    return 0


def pretrain_branch(branch: str, overrides: list[str], **options: Any) -> int:
    """Exit status of ``fastiqa pretrain``; arguments as of `train_recipe`."""
    if branch not in PRETRAINING:
        print(f"error: branch: got {branch!r}, want one of {', '.join(PRETRAINING)}", file=sys.stderr)
        return 2
    return train_recipe(PRETRAINING[branch], overrides, **options)
