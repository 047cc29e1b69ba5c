"""Tables of file names and labels: lines, names and numbers, checked.

UTF-8 or UTF-16; columns separated by commas or, where all lines agree in that, by semicolons or tabs; Excel's line
"sep=;" is read.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from fastiqa.common.text import decoded

_SEPARATOR = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)


def lines(source: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The lines of a csv file that are not blank: line number and columns. Raises ValueError naming the file."""
    try:
        text = decoded(content)
        said = _SEPARATOR.match(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=said[1] if said else _delimiter(text))
        rows = [(reader.line_num, columns) for columns in reader if columns]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{source}: not a csv file: {error}") from error
    return rows[1:] if said else rows


def _delimiter(text: str) -> str:
    """What separates the columns: a comma unless every line has as many semicolons, or tabs, and commas are uneven."""
    sample = [line for line in text.splitlines()[:100] if line.strip()]
    commas = {line.count(",") for line in sample}
    for other in (";", "\t"):
        counts = {line.count(other) for line in sample}
        if len(counts) == 1 and counts != {0} and (len(commas) > 1 or commas == {0}):
            return other
    return ","


def is_header(columns: Sequence[str]) -> bool:
    """Whether the columns of a first line are names of columns: none is a number or can be the name of a file."""
    return not any("." in column or column.strip()[:1].isdigit() for column in columns)


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


def relative_path(name: str, backslashes: bool = True) -> PurePosixPath:
    """A file name. Raises ValueError unless it leads to a file below the folder it is relative to.

    Args:
        backslashes: whether they separate folders, as on Windows, or are part of the name.
    """
    path = PurePosixPath(name.strip().replace("\\", "/") if backslashes else name.strip())
    absolute = path.is_absolute() or (backslashes and PureWindowsPath(path).drive != "")
    if not path.name or absolute or ".." in path.parts or "\0" in name:
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
