"""score_files: what ``fastiqa score`` does, the quality of images without a reference, one number each.

Rows are printed as they come, so that what is scored when the command ends, however it ends, is not lost. JSON is
closed after Ctrl-C and errors too. Its keys, which stay as they are:
    model       the network's name, weights: its file, as they were given
    crops       null for whole images, else {"number", "size", "seed"}
    scores      [{"image", "score"}], in the order of the arguments; a folder's files sorted by name; bad ones left out
    failed      [{"image", "reason"}], the bad ones
The CSV has the columns image, names by `fastiqa.common.text.csv_cell`, and score. Larger is better, on the scale of
the scores that the network was trained on.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from rich.cells import cell_len
from rich.console import Console
from rich.progress import track
from torch import nn

from fastiqa.common.text import csv_cell, one_line, stdout_is_utf8
from fastiqa.data import ImageError, TestCrops, read_image
from fastiqa.data.images import native_stderr
from fastiqa.data.images.folders import image_files
from fastiqa.evaluation.networks import chosen_device, chosen_dtype, ready, warn_if_untrained
from fastiqa.models import MFENet, create_model
from fastiqa.models.registry import model_class
from fastiqa.runtime.failures import reason_of

AT_ONCE = 8  # crops in a batch, which bounds the memory that they need


def score_files(
    paths: list[Path],
    *,
    model: str,
    weights: Path,
    crops: TestCrops | None,
    device: str,
    dtype: str,
    as_json: bool,
    as_csv: bool,
    skip_bad: bool,
) -> int:
    """Exit status of ``fastiqa score``: 0; 1 where images could not be scored; 2 after an error.

    Arguments as the options of those names.
    """
    try:
        if as_json and as_csv:
            raise ValueError("--csv: got --json too, want one of them")
        where, wanted = chosen_device(device), chosen_dtype(dtype)
        files = _files(paths)
        network = _network(model, weights, where, wanted)
    except (OSError, ValueError) as error:
        print("error:", one_line(str(error)), file=sys.stderr)
        return 2
    if as_json:
        about = {
            "model": model,
            "weights": str(weights),
            "crops": crops and {"number": crops.n, "size": crops.size, "seed": crops.seed},
        }
        rows: Rows = JSONRows(about)
    else:
        rows = CSVRows() if as_csv else TableRows(files)
    try:
        return _score_all(network, where, files, crops, rows, skip_bad)
    finally:
        rows.close()


class Rows:
    """Where scores go, one by one; nothing is printed before the first."""

    def add(self, image: Path, score: float) -> None:
        """Print a row."""
        raise NotImplementedError

    def fail(self, image: Path, reason: str) -> None:
        """Note an image that has no score."""

    def close(self) -> None:
        """End the output."""


class CSVRows(Rows):
    def __init__(self) -> None:
        self._writer: Any = None

    def add(self, image: Path, score: float) -> None:
        if self._writer is None:
            self._writer = csv.writer(sys.stdout, lineterminator="\n")
            self._writer.writerow(("image", "score"))
        self._writer.writerow((csv_cell(str(image), ascii_only=not stdout_is_utf8()), f"{score:.6g}"))
        sys.stdout.flush()


class JSONRows(Rows):
    """One object, whose list of scores is written as they come."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._about, self._started = about, False
        self._failed: list[dict[str, str]] = []

    def add(self, image: Path, score: float) -> None:
        if self._started:
            print(",")
        else:
            head = json.dumps({**self._about, "scores": []}, indent=2)
            print(head.removesuffix("]\n}"))
        row = json.dumps({"image": str(image), "score": score}, allow_nan=False)
        print(f"    {row}", end="", flush=True)
        self._started = True

    def fail(self, image: Path, reason: str) -> None:
        self._failed.append({"image": str(image), "reason": reason})

    def close(self) -> None:
        if self._started:
            failed = json.dumps({"failed": self._failed}, indent=2).removeprefix("{\n")
            print(f"\n  ],\n{failed}")


class TableRows(Rows):
    """Columns for people, as wide as the longest name."""

    def __init__(self, files: list[Path]) -> None:
        self._width, self._started = max(len("image"), *(cell_len(one_line(str(file))) for file in files)), False

    def add(self, image: Path, score: float) -> None:
        if not self._started:
            print(f"\n  {'image':<{self._width}}   {'quality':>8}\n {'─' * (self._width + 13)}")
            self._started = True
        name = one_line(str(image))
        print(f"  {name}{' ' * (self._width - cell_len(name))}   {score:>8.4f}", flush=True)

    def close(self) -> None:
        if self._started:
            print()


def _network(name: str, weights: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    if not issubclass(model_class(name), MFENet):
        raise ValueError(f"--model: got {name!r}, want a network that scores single images: mfenet")
    model = create_model(name, weights)
    warn_if_untrained(model, weights)
    return ready(model, device, dtype)


def _files(paths: list[Path]) -> list[Path]:
    """The files, and those of the folders."""
    files: list[Path] = []
    for path in paths:
        found = image_files(path) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: got a folder without images, want at least one")
        files += found
    return files


def _score_all(
    network: nn.Module, device: torch.device, files: list[Path], crops: TestCrops | None, rows: Rows, skip_bad: bool
) -> int:
    """Exit status, after a row for each file that can be scored; the others are named on stderr."""
    console = Console(stderr=True)
    word = "skipped" if skip_bad else "failed" if len(files) > 1 else "error"
    scored = failed = 0
    for file in track(files, "images", console=console, transient=True, disable=not console.is_terminal):
        try:
            score = _score(network, device, file, crops)
        except ImageError as error:
            failed += 1
            rows.fail(file, error.reason)
            console.print(f"{word}: {one_line(str(error))}", highlight=False, markup=False, soft_wrap=True)
        except ValueError as error:  # of the network, and so of every image
            print("error:", one_line(str(error)), file=sys.stderr)
            return 2
        else:
            scored += 1
            rows.add(file, score)
    if word == "error" and failed:
        return 2
    if not scored:
        print(f"error: IMAGE: got {len(files)} that cannot be read, want at least one that can", file=sys.stderr)
        return 2
    if failed and not skip_bad:
        print(f"error: {failed} of {len(files)} images have no score", file=sys.stderr)
        return 1
    return 0


def _score(network: nn.Module, device: torch.device, file: Path, crops: TestCrops | None) -> float:
    """Raises ImageError for an image that cannot be read, is too small or too large; ValueError for a bad score."""
    try:
        with native_stderr.silenced():
            image = read_image(file)
        parts = image.tensor() if crops is None else crops(image)
        with torch.inference_mode():
            found = [network(part.to(device)) for part in parts.split(AT_ONCE)]
            score = torch.cat(found).double().mean().item()
    except ImageError:
        raise
    except ValueError as error:  # what read_image gives can only be too small
        raise ImageError(file, str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if (reason := reason_of(error)) is None or not reason.startswith("out of memory"):
            raise
        raise ImageError(file, reason) from error
    if not math.isfinite(score):
        raise ValueError(f"{file}: got {score} for its quality, want a number")
    return score
