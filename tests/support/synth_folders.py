"""What `fastiqa data synth` wrote."""

from __future__ import annotations

import csv
from pathlib import Path


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by its path below the folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def table(out: Path) -> list[dict[str, str]]:
    """The rows of triplets.csv."""
    with (out / "triplets.csv").open(newline="") as file:
        return list(csv.DictReader(file))
