"""score_files: what ``fastiqa score`` does, the quality of images without a reference, one number each.

JSON keys, which stay as they are:
    model       the network's name, weights: its file, as they were given
    crops       null for whole images, else {"number", "size", "seed"}
    scores      [{"image", "score"}], in the order of the arguments; a folder's files sorted by name; bad ones left out
The CSV has the columns image and score. Larger is better, on the scale of the scores that the network was trained on.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import nn

from fastiqa.cli import native_stderr
from fastiqa.data import ImageError, TestCrops, read_image
from fastiqa.data.folders import image_files
from fastiqa.data.images import one_line
from fastiqa.models import MFENet, create_model
from fastiqa.models.registry import model_class

AT_ONCE = 8  # crops in a batch, which bounds the memory that they need


def score_files(
    paths: list[Path],
    *,
    model: str,
    weights: Path,
    crops: TestCrops | None,
    as_json: bool,
    as_csv: bool,
    skip_bad: bool,
) -> int:
    """Exit status of ``fastiqa score``; arguments as the options of those names."""
    try:
        if as_json and as_csv:
            raise ValueError("--csv: got --json too, want one of them")
        network = _network(model, weights)
        scores = _scores(network, _files(paths), crops, skip_bad)
    except (OSError, ValueError) as error:
        print("error:", one_line(str(error)), file=sys.stderr)
        return 2
    if as_json:
        content = {
            "model": model,
            "weights": str(weights),
            "crops": crops and {"number": crops.n, "size": crops.size, "seed": crops.seed},
            "scores": [{"image": image, "score": score} for image, score in scores],
        }
        print(json.dumps(content, indent=2, allow_nan=False))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("image", "score"))
        writer.writerows((image, f"{score:.6g}") for image, score in scores)
    else:
        _print(scores)
    return 0


def _network(name: str, weights: Path) -> nn.Module:
    if not issubclass(model_class(name), MFENet):
        raise ValueError(f"--model: got {name!r}, want a network that scores single images: mfenet")
    return create_model(name, weights).float().eval()


def _files(paths: list[Path]) -> list[Path]:
    """The files, and those of the folders."""
    files: list[Path] = []
    for path in paths:
        found = image_files(path) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: got a folder without images, want at least one")
        files += found
    return files


def _scores(network: nn.Module, files: list[Path], crops: TestCrops | None, skip_bad: bool) -> list[tuple[str, float]]:
    """Name and score of each file, with a progress bar on stderr; what is left out is named there."""
    console = Console(stderr=True)
    scores = []
    for file in track(files, "images", console=console, transient=True, disable=not console.is_terminal):
        try:
            scores.append((str(file), _score(network, file, crops)))
        except ImageError as error:
            if not skip_bad:
                raise
            console.print(f"skipped: {error}", highlight=False, markup=False, soft_wrap=True)
    if not scores:
        raise ValueError(f"IMAGE: got {len(files)} that cannot be read, want at least one that can")
    return scores


def _score(network: nn.Module, file: Path, crops: TestCrops | None) -> float:
    """Raises ImageError for an image that cannot be read or is too small."""
    with native_stderr.silenced():
        image = read_image(file)
    parts = image.tensor() if crops is None else crops(image)
    try:
        with torch.inference_mode():
            score = torch.cat([network(part) for part in parts.split(AT_ONCE)]).double().mean().item()
    except ValueError as error:  # what read_image gives can only be too small
        raise ImageError(file, str(error)) from error
    if not math.isfinite(score):
        raise ValueError(f"{file}: got {score} for its quality, want a number")
    return score


def _print(scores: list[tuple[str, float]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", no_wrap=True)
    table.add_column("quality", justify="right", no_wrap=True)
    for image, score in scores:
        table.add_row(Text(one_line(image)), f"{score:.4f}")
    needed = 24 + max(len(one_line(image)) for image, _ in scores)
    console = Console(highlight=False)
    if console.width < needed:  # whatever COLUMNS says, rather than "photo…"
        console = Console(highlight=False, width=needed)
    console.print(table)
