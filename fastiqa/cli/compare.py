"""``fastiqa compare``: which of two images is closer to a reference."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from fastiqa.cli.options import LPIPS_HELP, Device, chosen_device, chosen_dtype, refuse
from fastiqa.common.text import one_line

# The command line's words for the arguments of `compare_files`.
ARGUMENTS = {"ref": "REF", "a": "A", "b": "B", "weights": "--weights", "lpips": "--lpips"}
NONE = "none"


def compare_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference image.", show_default=False)],
    a: Annotated[str, typer.Argument(metavar="A", help="The first candidate.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The second candidate.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A PRFNet written by fastiqa.save_model, or none for metrics alone; default: prfnet_lite's published "
            "weights.",
            show_default=False,
        ),
    ] = None,
    lpips: Annotated[
        str | None,
        typer.Option("--lpips", metavar="[FILE]", help=LPIPS_HELP, show_default=False),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="PRFNet's dtype: float32, bfloat16, float16 or float64.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say which of A and B is closer to REF.

    Prints PSNR over RGB code values in dB, SSIM and MS-SSIM (weighted sum of five scales) on MATLAB's rounded grey,
    with --lpips LPIPS (lower is better), and PRFNet's probability that B is closer, with a line on how far to trust it.
    The published weights need the extra `weights`. The images are PNG, JPEG, WebP, AVIF, TIFF, BMP or JPEG 2000, all of
    one size.
    """
    from fastiqa.cli.render import comparison_json, print_comparison
    from fastiqa.evaluation.comparison import CompareError, compare_files

    try:
        where, number_type = chosen_device(device), chosen_dtype(dtype)
    except ValueError as error:
        return refuse(error)
    try:
        network, missing = _network(weights)
        comparison = compare_files(ref, a, b, network, lpips, where, number_type)
    except CompareError as error:
        return refuse(f"{ARGUMENTS[error.argument]}: {error.reason}")
    if missing and comparison.failure is None:
        comparison = dataclasses.replace(comparison, notes=(*comparison.notes, missing))
    if as_json:
        print(comparison_json(comparison))
    else:
        print_comparison(comparison)
    return 0 if comparison.failure is None else refuse(comparison.failure)


def _network(weights: str | None) -> tuple[str | None, str]:
    """The weights to compare with, and a sentence if there are none although nobody asked for none."""
    if weights is not None:
        return (None if weights == NONE else weights), ""
    from fastiqa.evaluation.comparison import NETWORK
    from fastiqa.evaluation.preferences import PUBLISHED
    from fastiqa.models.published import unavailable

    if reason := unavailable(NETWORK):
        return None, f"PRFNet was not run: {one_line(reason)}"
    return PUBLISHED, ""
