"""``fastiqa score``: how good images are, without a reference, one number each.

A row is printed as soon as it is known, so a command that ends early, however it ends, loses no score. JSON is closed
after Ctrl-C and errors too; `fastiqa.cli.render` lists its keys.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastiqa.cli.options import (
    Background,
    Colour,
    Device,
    Strict,
    chosen_device,
    chosen_dtype,
    reading_policy,
    refuse,
    warn_if_untrained,
)
from fastiqa.common.text import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fastiqa.cli.render import ScoreRows
    from fastiqa.data import ReadingPolicy, TestCrops
    from fastiqa.evaluation.networks import Windows


def score_command(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images, and folders of them.", show_default=False)
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="An MFENet written by fastiqa.save_model, or a name of `fastiqa models`, which also says the default.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The network: mfenet_lite by default, mfenet with a file.", show_default=False),
    ] = None,
    crops: Annotated[
        int | None,
        typer.Option("--crops", min=1, help="Score the mean over this many random crops; default: the whole image."),
    ] = None,
    crop_size: Annotated[int, typer.Option("--crop-size", min=32, help="Sides of a crop in pixels.")] = 224,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed that places the crops.")] = 0,
    grid: Annotated[
        int | None,
        typer.Option(
            "--grid",
            min=0,
            help="Score the mean over GRID x GRID even crops, 0: the whole image; default: as for --longest-side.",
            show_default=False,
        ),
    ] = None,
    longest_side: Annotated[
        int | None,
        typer.Option(
            "--longest-side",
            min=0,
            help="Shrink larger images to it, 0: never; default: as published weights were measured.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="The network's dtype: float32, bfloat16, float16 or float64.")
    ] = "float32",
    strict: Strict = False,
    background: Background = None,
    colour: Colour = "convert",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows image,score.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Exit with 0, not 1, where some images cannot be scored.")
    ] = False,
) -> int:
    """Say how good images are, without a reference.

    Each image gets one number, on the scale that the network was trained on; larger is better. It does not depend on
    the other images. Rows are printed as they come, and stderr names images that cannot be scored. A line on stderr, in
    JSON a key, says how far to trust published weights. Their networks look at images as in their training: shrunk to
    the size of a screen, in windows. --longest-side 0 --grid 0 shows the whole image at its own size.

    Grey images are scored as grey, alpha is shown on white or on --background, ICC profiles are converted to sRGB; a
    line on stderr, in JSON a key, says what was decided for each file. --strict refuses all but opaque RGB.
    """
    from fastiqa.cli.render import CsvScores, JsonScores, ScoreTable

    try:
        if as_json and as_csv:
            raise ValueError("--csv: got --json too, want one of them")
        where, number_type = chosen_device(device), chosen_dtype(dtype)
        policy = reading_policy(strict, background, colour)
        files = _files(images, policy)
        network, facts, notes, view = _network(model, weights, where, number_type)
        side = (view.get("longest_side") if longest_side is None else longest_side) or None
        sampled = _crops(crops, crop_size, seed, grid, view)
    except (ImportError, OSError, ValueError) as error:
        return refuse(error)
    rows: ScoreRows
    if as_json:
        about = sampled and {"number": sampled.n, "size": sampled.size, **_places(sampled)}
        rows = JsonScores({**facts, "longest_side": side, "crops": about, "reading": policy.as_dict()})
    else:
        for note in notes:
            print(note, file=sys.stderr)
        rows = CsvScores() if as_csv else ScoreTable(files)
    try:
        return _score_all(network, where, files, sampled, side, policy, rows, skip_bad)
    finally:
        rows.close()


def _crops(
    crops: int | None, size: int, seed: int, grid: int | None, view: dict[str, int]
) -> TestCrops | Windows | None:
    """What the options show of each image, else what the card does; None for the whole image."""
    from fastiqa.data import TestCrops
    from fastiqa.evaluation.networks import Windows

    if crops is not None:
        if grid is not None:
            raise ValueError("--grid: got --crops too, want one of them")
        return TestCrops(crops, size, seed)
    if grid is None:
        return Windows(view["size"], view["grid"]) if "grid" in view else None
    return Windows(view.get("size", size), grid) if grid else None


def _places(crops: TestCrops | Windows) -> dict[str, int]:
    from fastiqa.evaluation.networks import Windows

    return {"grid": crops.grid} if isinstance(crops, Windows) else {"seed": crops.seed}


def _network(
    model: str | None, weights: Path | None, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, dict[str, Any], list[str], dict[str, int]]:
    """The network, what JSON says of it, lines on how far to trust it, and how it looks at images, see `Card.view`."""
    from fastiqa.common.hashing import file_sha256
    from fastiqa.evaluation.networks import prepare_for_inference
    from fastiqa.models import MFENet, card_of, create_model
    from fastiqa.models.published import default_card, find_card
    from fastiqa.models.registry import model_class

    try:
        if weights is not None:
            card, note = find_card(str(weights)), None
        else:
            card, note = default_card("quality") if model is None else (card_of(model), None)
    except ValueError as error:
        raise ValueError(f"--weights: got none, want a file: {error}") from None
    name = model or "mfenet" if card is None else card.model
    if not issubclass(model_class(name), MFENet):
        raise ValueError(
            f"--model: got {name!r}, want a network that scores single images: mfenet_lite, mfenet_small or mfenet"
        )
    facts: dict[str, Any]
    if card is not None:
        network = create_model(card.name, pretrained=True)
        facts = {"model": name, "weights": card.name, "tag": card.tag, "sha256": card.sha256, "accuracy": card.accuracy}
    else:
        assert weights is not None  # without it there is a card
        network = create_model(name, weights)
        warn_if_untrained(network, weights)
        facts = {"model": name, "weights": str(weights), "tag": None, "sha256": file_sha256(weights), "accuracy": None}
    notes = [line for line in (None if card is None else card.line, note) if line is not None]
    return prepare_for_inference(network, device, dtype), facts, notes, {} if card is None else card.view or {}


def _files(paths: list[Path], policy: ReadingPolicy) -> list[Path]:
    """Return the files, and the images of the folders."""
    from fastiqa.data.images.folders import LENIENT_SUFFIXES, SUFFIXES, image_files

    suffixes = SUFFIXES if policy.strict else LENIENT_SUFFIXES
    files: list[Path] = []
    for path in paths:
        found = image_files(path, suffixes) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path}: got a folder without images, want at least one")
        files += found
    return files


def _score_all(
    network: nn.Module,
    device: torch.device,
    files: list[Path],
    crops: TestCrops | Windows | None,
    longest_side: int | None,
    policy: ReadingPolicy,
    rows: ScoreRows,
    skip_bad: bool,
) -> int:
    """Add a row for each file that can be scored, name the others on stderr, and return the exit status."""
    from rich.console import Console
    from rich.progress import track

    from fastiqa.data import ImageError
    from fastiqa.evaluation.networks import score_image

    console = Console(stderr=True)
    word = "skipped" if skip_bad else "failed" if len(files) > 1 else "error"
    scored = failed = 0
    for file in track(files, "images", console=console, transient=True, disable=not console.is_terminal):
        try:
            score = score_image(network, file, crops, device, longest_side, policy)
        except ImageError as error:
            failed += 1
            rows.fail(file, error.reason)
            console.print(f"{word}: {one_line(str(error))}", highlight=False, markup=False, soft_wrap=True)
        except ValueError as error:  # of the network, and so of every image
            return refuse(error)
        else:
            scored += 1
            if score.notes and rows.names_decisions:
                said = f"note: {one_line(str(file))}: {'; '.join(score.notes)}"
                console.print(said, highlight=False, markup=False, soft_wrap=True)
            rows.add(file, score.value, score.notes)
    if word == "error" and failed:
        return 2
    if not scored:
        return refuse(f"IMAGE: got {len(files)} that cannot be read, want at least one that can")
    if failed and not skip_bad:
        print(f"error: {failed} of {len(files)} images have no score", file=sys.stderr)
        return 1
    return 0
