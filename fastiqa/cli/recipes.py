"""``fastiqa train`` and ``fastiqa pretrain``, put together; the training itself is in ``fastiqa.training``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from fastiqa.common.text import one_line
from fastiqa.training import CheckpointError, DataError, RecipeError, Stopped, TrainingError, read_recipe, train
from fastiqa.training.recipes.recipe import Recipe, differences
from fastiqa.training.recipes.recipe_file import as_yaml
from fastiqa.training.run.progress import ProgressBar

PRETRAINING = {"dan": "dan_contrastive"}  # the recipe of each branch
REFUSALS = (CheckpointError, DataError, ImportError, OSError, RecipeError, TrainingError)


def train_recipe(
    recipe: str | None, overrides: list[str], *, out: Path | None, resume: bool, device: str | None, show: bool
) -> int:
    """Exit status of ``fastiqa train``: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        recipe: name or file of a recipe; None where a folder's run is resumed.
        overrides: the options --set.
        out, resume, device, show: as the options of those names.
    """
    first = os.environ.get("RANK", "0") == "0"
    folder = out
    try:
        if recipe is None and (out is None or not resume):
            raise RecipeError("RECIPE: missing, want a recipe, or --resume and --out of a run")
        folder = out or Path("runs") / Path(recipe or "").stem
        wanted = _resumed(recipe, overrides, folder, first) if resume else read_recipe(recipe or "", overrides)
        if show:
            print(as_yaml(wanted), end="")
            return 0
        bar = [ProgressBar(Console(stderr=True))] if first else []
        weights = train(wanted, folder, resume=resume, device=device, observers=bar)
    except REFUSALS as error:
        print("error:", one_line(str(error)), file=sys.stderr)
        return 2
    except Stopped as stop:
        if first:
            print(one_line(str(stop)), file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        kept = folder is not None and (folder / "checkpoint.safetensors").exists()
        then = f"--resume goes on from the last checkpoint in {folder}" if kept else "there is no checkpoint yet"
        print(one_line(f"stopped; {then}"), file=sys.stderr)
        return 130
    if first:
        print(weights)
    return 0


def _resumed(recipe: str | None, overrides: list[str], folder: Path, first: bool) -> Recipe:
    """The recipe of the folder's run, changed by `overrides`; where it differs from RECIPE, stderr says in what.

    A run that does not know a key of `overrides` was begun by another recipe: the checkpoint refuses it.
    """
    own = folder / "recipe.yaml"
    asked = None if recipe is None else read_recipe(recipe, overrides)
    if not own.exists():
        if asked is None:
            raise FileNotFoundError(f"{own}: no such file, want the folder of a run, or a RECIPE to begin one")
        return asked
    if asked is None:
        return read_recipe(own, overrides)
    changed = differences(asked.as_dict(), read_recipe(own).as_dict())
    if not changed:
        return asked  # the command that began the run, with other workers or logs maybe
    if first:
        print(one_line(f"resuming by {own}, which is not {recipe}: {'; '.join(changed)}"), file=sys.stderr)
    return read_recipe(own, overrides)


def pretrain_branch(branch: str, overrides: list[str], **options: Any) -> int:
    """Exit status of ``fastiqa pretrain``; arguments as of `train_recipe`."""
    if branch not in PRETRAINING:
        print(f"error: branch: got {branch!r}, want one of {', '.join(PRETRAINING)}", file=sys.stderr)
        return 2
    return train_recipe(PRETRAINING[branch], overrides, **options)
