"""``fastiqa compare``: which of two images is closer to a reference."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from fastiqa.cli.options import LPIPS_HELP, Device, chosen_device, chosen_dtype, refuse

# The command line's words for the arguments of `compare_files`.
ARGUMENTS = {"ref": "REF", "a": "A", "b": "B", "weights": "--weights", "lpips": "--lpips"}
WITHOUT_WEIGHTS = "PRFNet was not run: no weights were given (--weights FILE)"


def compare_command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference image.", show_default=False)],
    a: Annotated[str, typer.Argument(metavar="A", help="The first candidate.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The second candidate.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FILE", help="A PRFNet written by fastiqa.save_model.", show_default=False),
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
    with --lpips LPIPS (lower is better), and with --weights PRFNet's probability that B is closer. The images are PNG,
    JPEG, WebP, AVIF, TIFF, BMP or JPEG 2000, all of one size.
    """
    from fastiqa.cli.render import comparison_json, print_comparison
    from fastiqa.evaluation.comparison import CompareError, compare_files

    try:
        where, number_type = chosen_device(device), chosen_dtype(dtype)
    except ValueError as error:
        return refuse(error)
    try:
        comparison = compare_files(ref, a, b, weights, lpips, where, number_type)
    except CompareError as error:
        return refuse(f"{ARGUMENTS[error.argument]}: {error.reason}")
    if weights is None and comparison.failure is None:
        comparison = dataclasses.replace(comparison, notes=(*comparison.notes, WITHOUT_WEIGHTS))
    if as_json:
        print(comparison_json(comparison))
    else:
        print_comparison(comparison)
    return 0 if comparison.failure is None else refuse(comparison.failure)
