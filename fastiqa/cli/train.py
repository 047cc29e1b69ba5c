"""The commands ``fastiqa train`` and ``fastiqa pretrain``; what they do is in ``fastiqa.cli.recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe of fastiqa, or a YAML file; not needed with --resume --out."),
    ] = None,
    overrides: _Overrides = None,
    out: _Out = None,
    resume: _Resume = False,
    device: _Device = None,
    show: _Show = False,
) -> None:
    """Train a network by a recipe: prfnet_progressive, mfenet, smoke, ..., or your own.

    As in fastiqa train prfnet_progressive --set data.clic.folder=CLIC --set steps.coarse.optimizer.lr=0.01. Ctrl-C and
    SIGTERM write a checkpoint first. fastiqa train --resume --out FOLDER resumes a run that was stopped or killed, and
    ends as if nothing had happened. Several GPUs: torchrun --nproc-per-node=2 -m fastiqa train RECIPE; batch_size is
    that of all together.
    """
    from fastiqa.cli.recipes import train_recipe

    raise typer.Exit(train_recipe(recipe, overrides or [], out=out, resume=resume, device=device, show=show))


def pretrain(
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="dan, MFENet's distortion-aware branch.")],
    overrides: _Overrides = None,
    out: _Out = None,
    resume: _Resume = False,
    device: _Device = None,
    show: _Show = False,
) -> None:
    """Pre-train a branch of a network without labels: fastiqa pretrain dan --set data.photographs.folder=FOLDER.

    All else is as of fastiqa train. What it writes is read by fastiqa train mfenet --set model.pretrained_dan=FILE.
    """
    from fastiqa.cli.recipes import pretrain_branch

    raise typer.Exit(pretrain_branch(branch, overrides or [], out=out, resume=resume, device=device, show=show))
