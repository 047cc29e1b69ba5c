"""score_images: scores of a folder's images by several metrics, kept in a file between runs.

scores.csv, one row an image and metric, UTF-8, with a header:

image       relative to the folder, with forward slashes, as `fastiqa.common.text.csv_cell` writes it
sha256      SHA-256 of the image file
metric      its name, written likewise
source      SHA-256 of the weights, reference or table that also decide the score
score       higher is better; "inf" for PSNR of equal images

A score stays valid while image and source are the same, byte for byte. Remove the file for a new version of fastiqa.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastiqa.common.files import write_atomically
from fastiqa.common.hashing import file_sha256
from fastiqa.common.text import csv_cell, from_csv_cell
from fastiqa.data import ImageError, read_image
from fastiqa.evaluation.scorers import Scorer

SECONDS = 30.0  # of work that a killed process can lose


class ImageScore(NamedTuple):
    """A row of scores.csv."""

    image: str
    sha256: str
    metric: str
    source: str
    score: float


Scores = dict[tuple[str, str], ImageScore]  # by image and metric


@torch.inference_mode()
def score_images(
    folder: Path,
    images: Sequence[str],
    scorers: Sequence[Scorer],
    file: Path,
    *,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Score images and keep the scores in a file; scores already there are not computed again.

    Args:
        folder, images: the images, by their names below the folder.
        scorers: metrics with different names.
        file: scores.csv of this or an earlier run, in an existing folder.
        on_image: called after each image with the number done and the total.
        on_unreadable: called for an unreadable image, which is skipped; None raises the error instead.

    Returns:
        The names of the readable images, and their scores by name of the metric, (N,), float64.

    Raises:
        ImageError; ValueError naming the image and metric, or the file and line; OSError. The scores computed so far
        are in the file, also after Ctrl-C.
    """
    wanted = set(images)
    scores = {key: row for key, row in read_scores(file).items() if key[0] in wanted}
    readable = []
    saved = time.monotonic()
    try:
        for done, image in enumerate(images, 1):
            try:
                _score(folder, image, scorers, scores)
                readable.append(image)
            except ImageError as error:
                if on_unreadable is None:
                    raise
                on_unreadable(error)
            if time.monotonic() - saved > SECONDS:
                write_scores(file, scores)
                saved = time.monotonic()
            on_image(done, len(images))
    finally:
        write_scores(file, scores)
    table = {s.name: np.array([scores[image, s.name].score for image in readable]) for s in scorers}
    return readable, table


def _score(folder: Path, name: str, scorers: Sequence[Scorer], scores: Scores) -> None:
    """Compute the image's rows that are missing or outdated."""
    path = folder / name
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from None
    image = None
    for scorer in scorers:
        try:
            source = scorer.source(name)
            row = scores.get((name, scorer.name))
            if row is not None and (row.sha256, row.source) == (sha256, source):
                continue
            image = image or read_image(path)
            score = scorer.score(name, image)
        except ImageError:  # names the image or its reference
            raise
        except ValueError as error:
            raise ValueError(f"{path}: {scorer.name}: {error}") from None
        if math.isnan(score):
            raise ValueError(f"{path}: {scorer.name}: got NaN, want a number")
        scores[name, scorer.name] = ImageScore(name, sha256, scorer.name, source, score)


def read_scores(file: Path) -> Scores:
    """Read the rows of scores.csv, none if there is no file. Raises ValueError naming the file and line."""
    if not file.exists():
        return {}
    scores: Scores = {}
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = csv.reader(stream)
        if next(rows, None) != list(ImageScore._fields):
            raise ValueError(f"{file}:1: want the columns {','.join(ImageScore._fields)}; remove it to score all anew")
        for fields in rows:
            try:
                image, sha256, metric, source, score = fields
                image, metric = from_csv_cell(image), from_csv_cell(metric)
                scores[image, metric] = ImageScore(image, sha256, metric, source, float(score))
            except ValueError:
                message = f"got {','.join(fields)!r}, want {','.join(ImageScore._fields)}; remove it to score all anew"
                raise ValueError(f"{file}:{rows.line_num}: {message}") from None
    return scores


def write_scores(file: Path, scores: Scores) -> None:
    """Write scores.csv atomically. Raises OSError."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(ImageScore._fields)
    for _, row in sorted(scores.items()):
        writer.writerow(row._replace(image=csv_cell(row.image), metric=csv_cell(row.metric)))
    write_atomically(file, stream.getvalue().encode())
