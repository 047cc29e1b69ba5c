"""Tables of file names and labels: lines, names and numbers, checked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


def lines(source: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The lines of a csv file that are not blank: line number and columns. Raises ValueError naming the file."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        return [(reader.line_num, columns) for columns in reader if columns]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source}: not a csv file: {error}") from error


def records(source: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file with a header line: line number, and column by name; a short row ends in "".

    Raises: ValueError naming the file where it is no text, or the header lacks one of `columns`.
    """
    (line, header), *rows = lines(source, source.read_bytes()) or [(1, [])]
    names = [name.strip() for name in header]
    require_columns(f"{source}:{line}", names, columns)
    for number, fields in rows:
        yield number, dict.fromkeys(names, "") | dict(zip(names, fields, strict=False))


def require_columns(where: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError unless all columns that are wanted are among the names of a header."""
    if not set(wanted) <= set(names):
        raise ValueError(f"{where}: got columns {', '.join(names) or 'none'}, want {', '.join(wanted)} among them")


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


def number(value: object, low: float, high: float) -> float:
    """A score, as text or as a number. Raises ValueError unless it lies in [low, high]."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.nan
    if not low <= result <= high:  # true for NaN too
        text = value.strip() if isinstance(value, str) else value
        raise ValueError(f"got {text!r}, want a number from {low:g} to {high:g}")
    return result
