"""The commands of ``fastiqa`` and their exit status.

A user's mistake ends in one line on stderr, ``error: ...``, and status 2.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fastiqa import __version__
from fastiqa.cli import data
from fastiqa.cli.bench import bench_command
from fastiqa.cli.compare import compare_command
from fastiqa.cli.eval import eval_command
from fastiqa.cli.gmad import gmad_command
from fastiqa.cli.info import info_command
from fastiqa.cli.models import models_command
from fastiqa.cli.options import with_published_lpips
from fastiqa.cli.score import score_command
from fastiqa.cli.train import pretrain_command, train_command
from fastiqa.common.text import escape_unencodable, one_line

app = typer.Typer(
    name="fastiqa",
    help="Image-quality metrics and networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run(arguments: list[str]) -> int:
    """Run the command line ``fastiqa ARGUMENTS...`` and return its exit status."""
    for name in ("stdout", "stderr"):  # None if the process was started without it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process
    escape_unencodable()
    try:
        status = app(with_published_lpips(arguments), prog_name="fastiqa", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        return 130
    except BrokenPipeError:  # the reader of a pipe left
        _leave_stdout()
        return 1
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("FASTIQA_"):  # a variable, read on import
            print("error:", one_line(str(error)), file=sys.stderr)
            return 2
        from fastiqa.runtime.failures import reason_of

        if isinstance(error, OSError) and error.filename is None and error.strerror:  # of print, such as a full disk
            _leave_stdout()
            print("error: output:", error.strerror, file=sys.stderr)
            return 2
        if reason := reason_of(error):
            print("error:", reason, file=sys.stderr)
            return 2
        # A usage error: a missing argument, an unknown option or command. Its base class is click's, or typer's where
        # typer carries its own copy of click.
        if not hasattr(error, "format_message"):
            raise
        if message := " ".join(error.format_message().split()):  # empty after the help that no arguments print
            print("error:", one_line(message), file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def _leave_stdout() -> None:
    """Drop unwritten output, about which Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastiqa {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image-quality metrics and networks."""


# In the order of the help. Each command is a function NAME_command in its own file. It imports torch only when it runs,
# and returns the exit status.
app.add_typer(data.app)
app.command("eval")(eval_command)
app.command("train")(train_command)
app.command("pretrain")(pretrain_command)
app.command("score")(score_command)
app.command("gmad")(gmad_command)
app.command("compare")(compare_command)
app.command("models")(models_command)
app.command("bench")(bench_command)
app.command("info")(info_command)
