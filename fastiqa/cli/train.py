"""``fastiqa train`` and ``fastiqa pretrain``: training by a recipe; the training itself is in `fastiqa.training`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastiqa.cli.options import refuse
from fastiqa.common.text import one_line

if TYPE_CHECKING:
    from fastiqa.training.recipes.recipe import Recipe

PRETRAINING = {"dan": "dan_contrastive"}  # the recipe of each branch

_Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; may be repeated.")
]
_Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Where the run is kept; default: runs/RECIPE.")
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Resume the folder's run by its own recipe.yaml; start one if there is none.")
]
_Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; default: cuda where there is one.")]
_Show = Annotated[bool, typer.Option("--show", help="Print the recipe in full, and train nothing.")]


def train_command(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe of fastiqa, or a YAML file; not needed with --resume --out."),
    ] = None,
    overrides: _Overrides = None,
    out: _Out = None,
    resume: _Resume = False,
    device: _Device = None,
    show: _Show = False,
) -> int:
    """Train a network by a recipe: prfnet_progressive, mfenet, smoke, ..., or your own.

    Example: fastiqa train prfnet_progressive --set data.clic.folder=CLIC --set steps.coarse.optimizer.lr=0.01. Ctrl-C
    and SIGTERM write a checkpoint first. fastiqa train --resume --out FOLDER resumes a stopped or killed run, which
    ends as if it had never stopped. Several GPUs: torchrun --nproc-per-node=2 -m fastiqa train RECIPE; batch_size
    counts the items of all processes together.
    """
    return _train(recipe, overrides or [], out, resume, device, show)


def pretrain_command(
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="dan, MFENet's distortion-aware branch.")],
    overrides: _Overrides = None,
    out: _Out = None,
    resume: _Resume = False,
    device: _Device = None,
    show: _Show = False,
) -> int:
    """Pre-train a branch of a network without labels: fastiqa pretrain dan --set data.photographs.folder=FOLDER.

    Options are those of fastiqa train. fastiqa train mfenet --set model.pretrained_dan=FILE reads the result.
    """
    if branch not in PRETRAINING:
        return refuse(f"branch: got {branch!r}, want one of {', '.join(PRETRAINING)}")
    return _train(PRETRAINING[branch], overrides or [], out, resume, device, show)


def _train(
    recipe: str | None, overrides: list[str], out: Path | None, resume: bool, device: str | None, show: bool
) -> int:
    """Return the exit status: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    from rich.console import Console

    from fastiqa.training import CheckpointError, DataError, RecipeError, Stopped, TrainingError, read_recipe, train
    from fastiqa.training.recipes.recipe_file import as_yaml
    from fastiqa.training.run.progress import ProgressBar

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
    except (CheckpointError, DataError, ImportError, OSError, RecipeError, TrainingError) as error:
        return refuse(error)
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
    """Return the recipe of the folder's run, changed by `overrides`; stderr says where it differs from RECIPE.

    A run that does not know a key of `overrides` was begun by another recipe: the checkpoint refuses it.
    """
    from fastiqa.training import read_recipe
    from fastiqa.training.recipes.recipe import differences

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
