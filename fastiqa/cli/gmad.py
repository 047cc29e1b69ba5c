"""``fastiqa gmad``: scores of a folder's images, the pairs on which metrics disagree, and sheets that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fastiqa.cli.options import chosen_device, refuse
from fastiqa.common.text import one_line


def gmad_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images, in subfolders too.", show_default=False)],
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            help="psnr, ssim, ms-ssim, lpips, NAME=FILE.safetensors (network), NAME=FILE.csv (image,score); 2 or more.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to write.", show_default=False)],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            metavar="CSV",
            help="Columns image,reference: the images that compete, with their references.",
        ),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", help="Levels of the defender, each with equally many images.")] = 6,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Name unreadable images and continue.")] = False,
) -> int:
    """Find the pairs of images on which metrics disagree most (gMAD competition), for you to decide who is right.

    Each metric defends against every other. At each quality level of the defender, the attacker picks the two images
    that it finds most different. Writes pairs.csv, sheet.html, sheet.png and scores.csv. The next run reuses the scores
    of scores.csv whose image, weights and reference are unchanged. Higher scores are better.
    """
    try:
        summary = _compete(folder, metric, out, references, levels, skip_bad)
    except (ImportError, OSError, ValueError) as error:
        return refuse(" ".join(str(error).split()))
    print(one_line(summary))
    return 0


def _compete(
    folder: Path,
    metrics: Sequence[str],
    out: Path,
    references: Path | None,
    levels: int,
    skip_bad: bool,
) -> str:
    """Write everything and return a summary; arguments as the options of those names.

    Networks run on CUDA where there is one.
    """
    from rich.console import Console

    from fastiqa.cli import render, sheets
    from fastiqa.common.files import write_atomically
    from fastiqa.data import ImageError
    from fastiqa.evaluation.gmad import gmad_competition
    from fastiqa.evaluation.image_scores import score_images
    from fastiqa.evaluation.scorers import create_scorer, read_references

    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"--out: got {out}, want a folder that is not in FOLDER")
    mapping = None if references is None else read_references(references)
    scorers = [create_scorer(name, mapping, chosen_device("auto"), folder) for name in metrics]
    names = [s.name for s in scorers]
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"--metric: got {', '.join(names)}, want two or more, of different names")
    out.mkdir(parents=True, exist_ok=True)
    found = _image_names(folder) if mapping is None else list(mapping)

    console = Console(stderr=True)

    def skipped(error: ImageError) -> None:
        console.print(f"skipped: {error}", highlight=False, markup=False, soft_wrap=True)

    on_unreadable = skipped if skip_bad else None
    with render.progress_bars(console) as bar:
        images, scores = score_images(
            folder, found, scorers, out / "scores.csv", on_image=bar("images"), on_unreadable=on_unreadable
        )
    roles = gmad_competition(scores, levels)

    files = [folder / name for name in images]
    shown = sorted({i for role in roles for pair in role.pairs for i in (pair.better, pair.worse)})
    pictures = {i: sheets.thumbnail(files[i]) for i in shown}
    write_atomically(out / "pairs.csv", sheets.pairs_csv(roles, images))
    write_atomically(out / "sheet.png", sheets.sheet_png(roles, files, pictures))
    write_atomically(out / "sheet.html", sheets.sheet_html(roles, files, pictures, out).encode())
    return f"{sum(len(role.pairs) for role in roles)} pairs of {len(images)} images: {out / 'sheet.html'}"


def _image_names(folder: Path) -> list[str]:
    from fastiqa.data.images.folders import SUFFIXES, image_files

    names = [file.relative_to(folder).as_posix() for file in image_files(folder)]
    if not names:
        raise ValueError(f"FOLDER: no images ({' '.join(SUFFIXES)}) in {folder}")
    return names
