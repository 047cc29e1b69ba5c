"""Predictions in CLIC's format: a csv of rows O,A,B,P without header; P is 1 if B is closer to O, else 0.

CLIC's own scorer compares P as text with the answers' 0 and 1. Here P may also be the probability that B is closer.
Paths are relative to the image folder.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from fastiqa.common.files import write_atomically
from fastiqa.data import tables
from fastiqa.data.triplets.dataset import Triplet


def write_predictions(
    path: str | os.PathLike[str], triplets: Sequence[Triplet], predictions: Sequence[float], folder: Path
) -> None:
    """Write probabilities that b is closer, one row per triplet in order, atomically.

    Raises: ValueError for a triplet outside the folder, or another number of predictions than triplets; OSError.
    """
    _write(path, triplets, [f"{prediction:.6g}" for prediction in predictions], folder)


def write_decisions(
    path: str | os.PathLike[str], triplets: Sequence[Triplet], decisions: Sequence[bool], folder: Path
) -> None:
    """Write decisions as CLIC takes them: 1 if b is closer, 0 if a is. Errors as for :func:`write_predictions`."""
    _write(path, triplets, ["1" if decision else "0" for decision in decisions], folder)


def _write(path: str | os.PathLike[str], triplets: Sequence[Triplet], predictions: Sequence[str], folder: Path) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for triplet, prediction in zip(triplets, predictions, strict=True):
        names = (file.relative_to(folder).as_posix() for file in triplet[:3])
        writer.writerow((*names, prediction))
    write_atomically(Path(path), stream.getvalue().encode("utf-8", "surrogateescape"))


def read_predictions(path: str | os.PathLike[str], triplets: Sequence[Triplet], folder: Path) -> list[float]:
    """Read the predictions for the triplets, in their order; rows of other triplets are ignored.

    Raises: FileNotFoundError; ValueError naming the file and the line or the triplet: a row that is not O,A,B,P, a P
        that is no probability, contradictory rows of a triplet, a triplet without a row.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    known: dict[tuple[Path, ...], float] = {}
    for index, (number, fields) in enumerate(tables.csv_lines(source, source.read_bytes())):
        where = f"{source}:{number}"
        if index == 0 and len(fields) == 4 and tables.is_header(fields):
            continue
        if len(fields) != 4:
            raise ValueError(f"{where}: got {len(fields)} columns, want O,A,B,P")
        try:
            key = tuple(folder / tables.parse_relative_path(name) for name in fields[:3])
            value = tables.parse_probability(fields[3])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if known.setdefault(key, value) != value:
            raise ValueError(f"{where}: got {value:g} for a triplet that has {known[key]:g} above, want one prediction")
    for i, triplet in enumerate(triplets):
        if tuple(triplet[:3]) not in known:
            names = ", ".join(file.name for file in triplet[:3])
            raise ValueError(f"{source}: got no row of triplet {i}, {names}, want one of each")
    return [known[tuple(triplet[:3])] for triplet in triplets]
