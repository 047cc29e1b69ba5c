"""``fastiqa gmad``: scores of a folder's images, the pairs on which metrics disagree, and sheets that show them."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastiqa.common.text import csv_cell, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastiqa.data import ImageError
    from fastiqa.evaluation.gmad import GmadRole
    from fastiqa.evaluation.scorers import Scorer


def gmad(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images, in subfolders too.", show_default=False)],
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            help="psnr, ssim, ms-ssim, NAME=FILE.safetensors (network, LPIPS), NAME=FILE.csv (image,score); 2 or more.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to write.", show_default=False)],
    references: Annotated[
        Path | None,
        typer.Option("--references", metavar="CSV", help="image,reference: the images that compete, and of what."),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", help="Of the defender, as many images in each.")] = 6,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Name images that cannot be read and go on.")] = False,
) -> None:
    """Find the pairs of images on which metrics disagree most (gMAD competition), for you to decide who is right.

    Each metric defends, and every other attacks: of the images that the defender finds about equal, level by level, the
    two that the attacker finds most different. Writes pairs.csv, sheet.html, sheet.png, and scores.csv, whose scores
    are kept for the next run as long as image, weights and reference are the same. Higher scores are better.
    """
    try:
        summary = _compete(folder, metric, out, references, levels, skip_bad)
    except (OSError, ValueError) as error:
        print("error:", one_line(" ".join(str(error).split())), file=sys.stderr)
        raise typer.Exit(2) from None
    print(one_line(summary))


def _compete(
    folder: Path,
    metrics: Sequence[str],
    out: Path,
    references: Path | None,
    levels: int,
    skip_bad: bool,
) -> str:
    """Writes everything; arguments as the options of those names. Networks run on CUDA where there is one."""
    import torch

    from fastiqa.cli import gmad_sheet
    from fastiqa.common.files import write_atomically
    from fastiqa.evaluation.gmad import gmad_competition
    from fastiqa.evaluation.scorers import read_references, scorer

    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"--out: got {out}, want a folder that is not in FOLDER")
    mapping = None if references is None else read_references(references)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorers = [scorer(name, mapping, device, folder) for name in metrics]
    names = [s.name for s in scorers]
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"--metric: got {', '.join(names)}, want two or more, of different names")
    out.mkdir(parents=True, exist_ok=True)
    found = _image_names(folder) if mapping is None else list(mapping)
    images, scores = _score(folder, found, scorers, out / "scores.csv", skip_bad)
    roles = gmad_competition(scores, levels)

    files = [folder / name for name in images]
    shown = sorted({i for role in roles for pair in role.pairs for i in (pair.better, pair.worse)})
    pictures = {i: gmad_sheet.thumbnail(files[i]) for i in shown}
    stream = io.BytesIO()
    gmad_sheet.sheet(roles, files, pictures).save(stream, "PNG")
    write_atomically(out / "pairs.csv", _pairs_csv(roles, images))
    write_atomically(out / "sheet.png", stream.getvalue())
    write_atomically(out / "sheet.html", gmad_sheet.page(roles, files, pictures, out).encode())
    return f"{sum(len(role.pairs) for role in roles)} pairs of {len(images)} images: {out / 'sheet.html'}"


def _image_names(folder: Path) -> list[str]:
    from fastiqa.data.images.folders import SUFFIXES, image_files

    names = [file.relative_to(folder).as_posix() for file in image_files(folder)]
    if not names:
        raise ValueError(f"FOLDER: no images ({' '.join(SUFFIXES)}) in {folder}")
    return names


def _score(
    folder: Path, images: list[str], scorers: Sequence[Scorer], file: Path, skip_bad: bool
) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """`score_images` with a progress bar on stderr; what is left out is named there."""
    from rich.console import Console
    from rich.progress import Progress

    from fastiqa.evaluation.image_scores import score_images

    console = Console(stderr=True)

    def skipped(error: ImageError) -> None:
        console.print(f"skipped: {error}", highlight=False, markup=False, soft_wrap=True)

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("images")
        return score_images(
            folder,
            images,
            scorers,
            file,
            on_image=lambda done, total: progress.update(task, completed=done, total=total),
            on_unreadable=skipped if skip_bad else None,
        )


def _pairs_csv(roles: Sequence[GmadRole], images: Sequence[str]) -> bytes:
    """A row a pair: who defends and attacks, the level, the images as the attacker finds them, and four scores."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    of_both = [f"{role}_{image}" for role in ("defender", "attacker") for image in ("better", "worse")]
    rows.writerow(["defender", "attacker", "level", "better", "worse", *of_both])
    for role in roles:
        for pair in role.pairs:
            shown = csv_cell(images[pair.better]), csv_cell(images[pair.worse])
            rows.writerow(
                [csv_cell(role.defender), csv_cell(role.attacker), pair.level, *shown, *pair.defender, *pair.attacker]
            )
    return stream.getvalue().encode()
