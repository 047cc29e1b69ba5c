"""The commands of ``fastiqa`` and their exit status.

Whatever the user can get wrong ends in one line on stderr, ``error: ...``, and status 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fastiqa import __version__
from fastiqa.cli import data
from fastiqa.cli.eval import evaluate
from fastiqa.cli.gmad import gmad
from fastiqa.cli.score import score
from fastiqa.cli.train import pretrain, train
from fastiqa.common.text import escape_unencodable, one_line

app = typer.Typer(
    name="fastiqa",
    help="Image-quality metrics and networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app)
app.command("eval")(evaluate)
app.command()(train)
app.command()(pretrain)
app.command()(score)
app.command()(gmad)


def run(arguments: list[str]) -> int:
    """Exit status of the command line ``fastiqa ARGUMENTS...``."""
    for name in ("stdout", "stderr"):  # None where the process was started without; print() would take the other
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process
    escape_unencodable()
    try:
        status = app(arguments, prog_name="fastiqa", standalone_mode=False)
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
        # usage: a missing argument, an unknown option or command. Their base class is click's or, since typer carries
        # its own copy of click, typer's
        if not hasattr(error, "format_message"):
            raise
        if message := " ".join(error.format_message().split()):  # empty after the help that no arguments print
            print("error:", one_line(message), file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def _leave_stdout() -> None:
    """Lets go of what is still to be written, about which Python would complain once more at exit."""
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


@app.command()
def compare(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference image.", show_default=False)],
    a: Annotated[str, typer.Argument(metavar="A", help="The first candidate.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The second candidate.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FILE", help="A PRFNet written by fastiqa.save_model.", show_default=False),
    ] = None,
    lpips: Annotated[
        str | None,
        typer.Option("--lpips", metavar="FILE", help="An LPIPS written by fastiqa.save_model.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="That PRFNet computes in: float32, bfloat16, float16, float64.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which of A and B is closer to REF.

    PSNR over RGB code values in dB; SSIM and MS-SSIM (weighted sum of five scales) on MATLAB's rounded grey; with
    --lpips, LPIPS, of which less is better; and, with --weights, PRFNet's probability that B is closer. PNG, JPEG,
    WebP, AVIF, TIFF, BMP and JPEG 2000 of equal size.
    """
    from fastiqa.cli.render import as_json_text, print_table
    from fastiqa.evaluation.comparison import CompareError, compare_files

    try:
        comparison = compare_files(ref, a, b, weights, lpips, device, dtype)
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(as_json_text(comparison))
    else:
        print_table(comparison)
    if comparison.failure is not None:
        print(f"error: {comparison.failure}", file=sys.stderr)
        raise typer.Exit(2)


_Many = list[str] | None


@app.command()
def bench(
    ops: Annotated[_Many, typer.Argument(metavar="[OPS]...", help="Operators; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, float32, --budget 110.")] = False,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile too; default: unless --quick.")
    ] = None,
    size: Annotated[_Many, typer.Option("--size", metavar="NxCxHxW", help="May be repeated.")] = None,
    dtype: Annotated[_Many, typer.Option("--dtype", help="float32, bfloat16, float16, float64; repeatable.")] = None,
    layout: Annotated[_Many, typer.Option("--layout", help="nchw, nhwc; repeatable.")] = None,
    mode: Annotated[_Many, typer.Option("--mode", help="fwd, bwd, fwd_bwd; repeatable.")] = None,
    memory: Annotated[_Many, typer.Option("--memory", help="reused, fresh (CPU); repeatable.")] = None,
    all_samples: Annotated[bool, typer.Option("--all-samples", help="Every variant of an operator.")] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=2, help="Most rounds a case.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.01, help="Timing of a case, about; a few rounds at least.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", min=1, help="Seconds for everything; cases that do not fit are left out."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; default: cuda where there is one.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: PyTorch's.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Append the rows to this file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out cases that the file has for this commit.")
    ] = False,
) -> None:
    """Time every operator against eager PyTorch and torch.compile, after an equality check.

    Rows are appended to bench/data/DEVICE.csv of a checkout, else to ./fastiqa-bench-DEVICE.csv, case by case: Ctrl-C
    loses nothing that is measured, and --resume goes on from there.
    """
    from fastiqa.cli.bench import bench as run_bench

    chosen = {"sizes": size, "dtypes": dtype, "layouts": layout, "modes": mode, "memory": memory, "names": ops}
    status = run_bench(
        {name: values for name, values in chosen.items() if values},
        quick=quick,
        compiled=compiled,
        rounds=rounds,
        seconds=seconds,
        budget=budget,
        device=device,
        threads=threads,
        all_samples=all_samples,
        csv=csv,
        resume=resume,
    )
    raise typer.Exit(status)


@app.command()
def info() -> None:
    """Say what is installed and built, which backends run here, and why the others do not."""
    from fastiqa.cli.info import main as info_main

    raise typer.Exit(info_main())
