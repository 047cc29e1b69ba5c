"""Tables of file names and labels: lines, names and numbers, checked."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath


def lines(source: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The lines of a csv file that are not blank: line number and columns. Raises ValueError naming the file."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        return [(reader.line_num, columns) for columns in reader if columns]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source}: not a csv file: {error}") from error


def relative_path(name: str) -> PurePosixPath:
    """A file name. Raises ValueError unless it leads to a file below the folder it is relative to."""
    path = PurePosixPath(name.strip())
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"got {name!r}, want the relative path of an image")
    return path


def probability(text: str, tolerance: float = 0.0) -> float:
    """A label, clipped to [0, 1] if it lies outside by at most `tolerance`, else ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -tolerance <= value <= 1 + tolerance:  # true for NaN too
        raise ValueError(f"got {text.strip()!r}, want a number from 0 to 1")
    return min(max(value, 0.0), 1.0)
