"""The ``fastiqa data`` commands."""

from __future__ import annotations

import typer

from fastiqa.cli.synth import synth

data = typer.Typer(name="data", help="Data sets to train on.", no_args_is_help=True)
data.command()(synth)


@data.callback()
def _options() -> None:
    """Data sets to train on."""
