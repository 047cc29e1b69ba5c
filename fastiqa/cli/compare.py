"""``fastiqa compare``: which of two images is closer to a reference."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from fastiqa.cli.options import (
    LPIPS_HELP,
    Background,
    Colour,
    Device,
    Strict,
    chosen_device,
    chosen_dtype,
    reading_policy,
    refuse,
)
from fastiqa.common.text import one_line

# The command line's words for the arguments of `compare_files`.
ARGUMENTS = {"ref": "REF", "a": "A", "b": "B", "weights": "--weights", "lpips": "--lpips"}


def compare_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference image.", show_default=False)],
    a: Annotated[str, typer.Argument(metavar="A", help="The first candidate.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The second candidate.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A PRFNet written by fastiqa.save_model, or a name of `fastiqa models`, which also says the default.",
            show_default=False,
        ),
    ] = None,
    metrics_only: Annotated[bool, typer.Option("--metrics-only", help="Run no network.")] = False,
    lpips: Annotated[
        str | None,
        typer.Option("--lpips", metavar="[FILE]", help=LPIPS_HELP, show_default=False),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="PRFNet's dtype: float32, bfloat16, float16 or float64.")
    ] = "float32",
    strict: Strict = False,
    background: Background = None,
    colour: Colour = "convert",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say which of A and B is closer to REF.

    Prints PSNR over RGB code values in dB, SSIM and MS-SSIM (weighted sum of five scales) on MATLAB's rounded grey,
    with --lpips LPIPS (lower is better), and the probability that B is closer by a PRFNet, with a line on how far to
    trust published weights. The images have one size. Grey images are compared as grey, images with alpha on white and
    on black (the worse value counts) or on --background, ICC profiles are converted to sRGB; a line on stderr, in JSON
    a key, says what was decided for each file. --strict refuses all but opaque RGB.
    """
    from fastiqa.cli.render import comparison_json, print_comparison, print_decisions
    from fastiqa.evaluation.comparison import CompareError, compare_files

    try:
        if metrics_only and weights is not None:
            raise ValueError("--metrics-only: got --weights too, want one of them")
        where, number_type = chosen_device(device), chosen_dtype(dtype)
        policy = reading_policy(strict, background, colour)
        network, unpublished, missing = weights, None, None
        if weights is None and not metrics_only:
            network, unpublished, missing = _published()
    except ValueError as error:
        return refuse(error)
    try:
        comparison = compare_files(ref, a, b, network, lpips, where, number_type, policy)
    except CompareError as error:
        if error.argument == "weights" and weights is None:
            return refuse(f"{error.reason} (--metrics-only needs no weights)")
        return refuse(f"{ARGUMENTS[error.argument]}: {error.reason}")
    if missing:
        print("note:", missing, file=sys.stderr)
    note = unpublished or (missing if as_json else None)  # a reader of both streams needs no second one
    if note and comparison.failure is None:
        comparison = dataclasses.replace(comparison, notes=(*comparison.notes, note))
    if as_json:
        print(comparison_json(comparison))
    else:
        print_decisions({path: comparison.decisions[name] for name, path in comparison.paths.items()})
        print_comparison(comparison)
    return 0 if comparison.failure is None else refuse(comparison.failure)


def _published() -> tuple[str | None, str | None, str | None]:
    """The default network, or why it does not run: no weights are published, or the extra `weights` is missing."""
    from fastiqa.evaluation.preferences import PUBLISHED
    from fastiqa.models.published import DEFAULTS, find_card

    card = find_card(name := DEFAULTS["comparison"])
    if card is None:
        return None, f"PRFNet was not run: no weights of {name} are published (--weights FILE)", None
    if missing := card.missing():
        return None, None, f"{name} was not run: {one_line(missing)}"
    return PUBLISHED, None, None
