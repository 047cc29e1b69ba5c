"""``fastiqa data synth``: options, progress bar and report; `fastiqa.data.synth.synthesis` does the work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastiqa.cli.options import refuse
from fastiqa.common.text import one_line

if TYPE_CHECKING:
    from fastiqa.data.synth.options import SynthOptions
    from fastiqa.data.synth.synthesis import Summary


def synth_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE_FOLDER", help="Photographs.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    codec: Annotated[
        list[str] | None, typer.Option("--codec", help="jpeg, webp, avif, jpeg2000; repeatable; all by default.")
    ] = None,
    levels: Annotated[int, typer.Option("--levels", help="Qualities of each codec, for a photograph.")] = 4,
    pairs: Annotated[int, typer.Option("--pairs", help="Most triplets of a photograph.")] = 40,
    metric: Annotated[str, typer.Option("--metric", help="Labels across codecs: ms-ssim, ssimulacra2.")] = "ms-ssim",
    max_size: Annotated[
        int | None, typer.Option("--max-size", help="Crop larger photographs to this many pixels a side.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize/--no-resize", help="Shrunk, coded, enlarged images too.")] = True,
    blur: Annotated[bool, typer.Option("--blur", help="Blurred coded images too.")] = False,
    noise: Annotated[bool, typer.Option("--noise", help="Noisy coded images too.")] = False,
    val: Annotated[float, typer.Option("--val", help="Share of the photographs for validation.")] = 0.15,
    test: Annotated[float, typer.Option("--test", help="Share of the photographs for testing.")] = 0.15,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; as many as there are cores by default.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Name unusable photographs and continue.")] = False,
) -> int:
    """Make labelled triplets from a folder of photographs with real codecs.

    If two images differ only in the codec's quality, the higher quality wins. For any other two the metric gives the
    probability. No photograph is in two of train, val and test. After an interruption, run the same command again: it
    keeps complete photographs. The same seed, photographs and codec versions give the same files.
    """
    from fastiqa.data.synth.options import SynthError, SynthOptions

    extras = [name for name, wanted in (("resize", resize), ("blur", blur), ("noise", noise)) if wanted]
    try:
        options = SynthOptions(
            seed=seed,
            extras=tuple(extras),
            levels=levels,
            pairs=pairs,
            metric=metric,
            max_size=max_size,
            val=val,
            test=test,
            **({"codecs": tuple(codec)} if codec else {}),
        )
        summary = _with_progress(source, out, options, workers, skip_bad)
    except SynthError as error:
        return refuse(error)
    _report(summary, out)
    return 0


def _with_progress(source: Path, out: Path, options: SynthOptions, workers: int | None, skip_bad: bool) -> Summary:
    from rich import progress as rich
    from rich.console import Console

    from fastiqa.data.synth.photo import Outcome
    from fastiqa.data.synth.synthesis import synthesize
    from fastiqa.evaluation.labellers import LABELLERS

    console = Console(stderr=True)
    columns = (
        rich.TextColumn("photographs"), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[images]} images"),
        rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", images=0)
        images = 0

        def finished(outcome: Outcome) -> None:
            nonlocal images
            images += len(outcome.photograph.images) if outcome.photograph else 0
            progress.update(bar, advance=1, images=images)

        return synthesize(
            source,
            out,
            options,
            labellers=LABELLERS,
            workers=workers,
            skip_bad=skip_bad,
            started=lambda photographs: progress.update(bar, total=photographs),
            finished=finished,
        )


def _report(summary: Summary, out: Path) -> None:
    for line in summary.bad:
        print("skipped:", one_line(line), file=sys.stderr)
    for file in summary.duplicates:
        print(one_line(f"skipped: {file}: equal to another photograph"), file=sys.stderr)
    splits = ", ".join(f"{count} {name}" for name, count in summary.triplets.items())
    triplets = f"{sum(summary.triplets.values())} triplets ({splits})"
    print(one_line(f"{triplets} of {summary.photographs} photographs in {out}"))
    if summary.kept:
        print(f"{summary.kept} photographs were whole from an earlier run")
