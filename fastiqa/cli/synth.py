"""``fastiqa data synth``: options, progress bar and report; `fastiqa.data.synth.synthesis` does the work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    profile: Annotated[
        str, typer.Option("--profile", help="classic; world: more codecs, pipelines, pairs of near quality.")
    ] = "classic",
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            help="jpeg, webp, avif, jpeg2000 (the classic four), jpegxl, jpegxr, htj2k (world: these too), heic; "
            "repeatable; in world a repeated codec gets as many ladders.",
        ),
    ] = None,
    levels: Annotated[
        int | None, typer.Option("--levels", help="Qualities of each codec, for a photograph: 4; world: 3.")
    ] = None,
    pairs: Annotated[int | None, typer.Option("--pairs", help="Most triplets of a photograph: 40; world: 200.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Labels across codecs: ms-ssim, the default, or ssimulacra2. world: the mean of ssimulacra2, ms-ssim, "
            "lpips; or haarpsi, psnr-hvs-m; repeatable.",
        ),
    ] = None,
    near: Annotated[
        float | None, typer.Option("--near", help="world: largest difference of a pair, in log-odds: 3.")
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option("--max-size", help="Crop larger photographs to this many pixels a side. world: 1024."),
    ] = None,
    resize: Annotated[
        bool | None, typer.Option("--resize/--no-resize", help="classic: shrunk, coded, enlarged images too (default).")
    ] = None,
    blur: Annotated[bool, typer.Option("--blur", help="classic: blurred coded images too.")] = False,
    noise: Annotated[bool, typer.Option("--noise", help="classic: noisy coded images too.")] = False,
    pipeline: Annotated[
        list[str] | None,
        typer.Option("--pipeline", help="world: social, scaled, denoised, sharpened; repeatable; all by default."),
    ] = None,
    val: Annotated[float, typer.Option("--val", help="Share of the photographs for validation.")] = 0.15,
    test: Annotated[float, typer.Option("--test", help="Share of the photographs for testing.")] = 0.15,
    split_seed: Annotated[
        int | None,
        typer.Option("--split-seed", help="Seed of the split alone, equal for sets of several seeds; default: --seed."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; as many as there are cores by default.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Name unusable photographs and continue.")] = False,
) -> int:
    """Make labelled triplets from a folder of photographs with real codecs.

    If two images differ only in the codec's quality, the higher quality wins. For any other two the metric gives the
    probability. No photograph is in two of train, val and test. After an interruption, run the same command again: it
    keeps complete photographs. The same seed, photographs and codec versions give the same files.

    The profile world also codes chains (shrunk and coded twice as social media do, denoised, sharpened), up to visually
    lossless. It pairs images of near quality and labels all pairs by the mean of several metrics' probabilities.
    """
    from fastiqa.data.synth.options import SynthError, SynthOptions, WorldOptions

    classic = {"--resize": resize is not None, "--blur": blur, "--noise": noise}
    world = {"--pipeline": pipeline is not None, "--near": near is not None}
    given: dict[str, Any] = {"levels": levels, "pairs": pairs, "max_size": max_size, "near": near}
    given |= {"codecs": tuple(codec) if codec else None, "split_seed": split_seed}
    try:
        if profile == "classic":
            _refuse_options("world", world)
            wanted = {"resize": resize is not False, "blur": blur, "noise": noise}
            extras = [name for name in wanted if wanted[name]]
            given |= {"extras": tuple(extras), "metric": _single(metric)}
        elif profile == "world":
            _refuse_options("classic", classic)
            given |= {"extras": tuple(pipeline) if pipeline else None, "metrics": tuple(metric) if metric else None}
        else:
            raise SynthError(f"profile: got {profile!r}, want classic or world")
        kind = WorldOptions if profile == "world" else SynthOptions
        chosen = {name: value for name, value in given.items() if value is not None}
        options = kind(seed=seed, val=val, test=test, **chosen)
        summary = _with_progress(source, out, options, workers, skip_bad)
    except SynthError as error:
        return refuse(error)
    _report(summary, out)
    return 0


def _refuse_options(profile: str, given: dict[str, bool]) -> None:
    """Raise SynthError for an option that only the other profile has."""
    from fastiqa.data.synth.options import SynthError

    for name, is_given in given.items():
        if is_given:
            raise SynthError(f"{name}: got it without --profile {profile}, want it there alone")


def _single(metrics: list[str] | None) -> str | None:
    from fastiqa.data.synth.options import SynthError

    if metrics and len(metrics) > 1:
        raise SynthError(f"metric: got {', '.join(metrics)}, want one, or --profile world")
    return metrics[0] if metrics else None


def _with_progress(source: Path, out: Path, options: SynthOptions, workers: int | None, skip_bad: bool) -> Summary:
    from rich import progress as rich
    from rich.console import Console

    from fastiqa.data.synth.photo import Outcome
    from fastiqa.data.synth.synthesis import synthesize
    from fastiqa.evaluation.labellers import LABELLERS, SCORERS

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
            scorers=SCORERS,
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
