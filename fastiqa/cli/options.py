"""What several commands share: options and their values, and lines on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fastiqa.common.text import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fastiqa.data import ReadingPolicy

Device = Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu or cuda.")]

LPIPS_HELP = "With LPIPS: alone for the published weights of the extra `weights`, or a file of fastiqa.save_model."

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse images that are not plain opaque RGB: grey, alpha, CMYK, animations.")
]
Background = Annotated[
    str | None,
    typer.Option(
        "--background",
        metavar="COLOUR",
        help="What alpha is shown on: white, black, checker or #rrggbb.",
        show_default=False,
    ),
]
Colour = Annotated[
    str, typer.Option("--colour", metavar="POLICY", help="ICC profiles: convert to sRGB, ignore, or refuse.")
]

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def chosen_device(name: str) -> torch.device:
    """Return the device of an option --device; "auto" is CUDA where there is one. Raises ValueError."""
    import torch

    if name not in DEVICES:
        raise ValueError(f"--device: got {name!r}, want one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got 'cuda', but PyTorch sees no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def chosen_dtype(name: str) -> torch.dtype:
    """Return the dtype of an option --dtype, in which a network computes. Raises ValueError."""
    import torch

    if name not in DTYPES:
        raise ValueError(f"--dtype: got {name!r}, want one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def reading_policy(strict: bool, background: str | None, colour: str) -> ReadingPolicy:
    """Return the policy of the options --strict, --background and --colour. Raises ValueError."""
    from fastiqa.data import ReadingPolicy

    if strict and background is not None:
        raise ValueError("--background: got --strict too, which refuses alpha, want one of them")
    try:
        return ReadingPolicy(strict, background, colour)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def with_published_lpips(arguments: Sequence[str]) -> list[str]:
    """Give an option --lpips that no file follows the value "published".

    An image, another option or nothing follows it: no weight file has an image's suffix.
    """
    given = list(arguments)
    if "--lpips" not in given:
        return given
    from fastiqa.data.images.folders import LENIENT_SUFFIXES

    for k, (argument, after) in enumerate(zip(arguments, [*arguments[1:], "--"], strict=True)):
        if argument == "--lpips" and (after.startswith("-") or after.lower().endswith(LENIENT_SUFFIXES)):
            given[k] = "--lpips=published"
    return given


def refuse(error: object) -> int:
    """Print an error as one line on stderr and return the exit status, 2."""
    print("error:", one_line(str(error)), file=sys.stderr)
    return 2


def warn_if_untrained(model: nn.Module, file: str | os.PathLike[str]) -> None:
    """Print a line on stderr if no norm of the network has ever seen an image."""
    from fastiqa.evaluation.networks import untrained_warning

    if (warning := untrained_warning(model, file)) is not None:
        print("warning:", warning, file=sys.stderr)
