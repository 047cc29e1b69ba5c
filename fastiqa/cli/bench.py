"""``fastiqa bench``: the options; the benchmark itself is `fastiqa.bench`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from fastiqa.cli.options import refuse

_Many = list[str] | None


def bench_command(
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
        float | None, typer.Option("--seconds", min=0.01, help="Seconds to time a case, about; a few rounds at least.")
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
) -> int:
    """Time every operator against eager PyTorch and torch.compile, after an equality check.

    Rows are appended to bench/data/DEVICE.csv of a checkout, else to ./fastiqa-bench-DEVICE.csv, case by case: Ctrl-C
    loses no measured row, and --resume continues from there.
    """
    import torch

    import fastiqa.bench.runner.command as command
    import fastiqa.bench.runner.run as runner

    options = runner.quick(runner.Options()) if quick else runner.Options()
    given = {"sizes": size, "dtypes": dtype, "layouts": layout, "modes": mode, "memory": memory, "names": ops}
    chosen: dict[str, list[Any]] = {name: values for name, values in given.items() if values}
    try:
        if "sizes" in chosen:
            chosen["sizes"] = [runner.parse_size(text) for text in chosen["sizes"]]
    except ValueError as error:
        return refuse(error)
    plan = options.plan if rounds is None else dataclasses.replace(options.plan, rounds=rounds)
    if seconds is not None:
        plan = dataclasses.replace(plan, case_seconds=seconds, round_seconds=min(plan.round_seconds, seconds / 50))
    options = dataclasses.replace(
        options,
        **chosen,
        plan=plan,
        compiled=not quick if compiled is None else compiled,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        all_samples=all_samples,
        csv=csv,
        resume=resume,
        budget=options.budget if budget is None else budget,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    return int(command.run(options))
