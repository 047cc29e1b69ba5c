"""Tables of file names and labels: csv files, Excel sheets and MATLAB vectors, and checks of their cells.

A csv file is UTF-8 or UTF-16. Commas separate its columns, or semicolons or tabs where all lines agree on them; Excel's
line "sep=;" is read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from fastiqa.common.extras import install_command
from fastiqa.common.text import decoded

LAST_HEADER_ROW = 10  # of an Excel sheet
_SEPARATOR = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)


def csv_lines(source: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The non-blank lines of a csv file: line number and columns. Raises ValueError naming the file."""
    try:
        text = decoded(content)
        said = _SEPARATOR.match(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=said[1] if said else _delimiter(text))
        rows = [(reader.line_num, columns) for columns in reader if columns]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{source}: not a csv file: {error}") from error
    return rows[1:] if said else rows


def _delimiter(text: str) -> str:
    """The separator: a comma, unless all lines have equally many semicolons (or tabs) and their commas differ."""
    sample = [line for line in text.splitlines()[:100] if line.strip()]
    commas = {line.count(",") for line in sample}
    for other in (";", "\t"):
        counts = {line.count(other) for line in sample}
        if len(counts) == 1 and counts != {0} and (len(commas) > 1 or commas == {0}):
            return other
    return ","


def is_header(columns: Sequence[str]) -> bool:
    """Whether the columns of a first line are column names: none is a number or looks like a file name."""
    return not any("." in column or column.strip()[:1].isdigit() for column in columns)


def csv_records(source: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file with a header line: line number, and cell by column name; "" fills up short rows.

    Raises: ValueError naming the file if it is no text, or if its header lacks one of `columns`.
    """
    (line, header), *rows = csv_lines(source, source.read_bytes()) or [(1, [])]
    names = [name.strip() for name in header]
    require_columns(f"{source}:{line}", names, columns)
    for number, fields in rows:
        yield number, dict.fromkeys(names, "") | dict(zip(names, fields, strict=False))


def require_columns(where: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError unless a header has all wanted columns."""
    if not set(wanted) <= set(names):
        raise ValueError(f"{where}: got columns {', '.join(names) or 'none'}, want {', '.join(wanted)} among them")


def parse_relative_path(name: str, backslashes: bool = True) -> PurePosixPath:
    """Parse a relative file name. Raises ValueError for an absolute one, or one that leaves its folder.

    Args:
        name: as the table has it.
        backslashes: whether backslashes separate folders, as on Windows, or are part of the name.
    """
    path = PurePosixPath(name.strip().replace("\\", "/") if backslashes else name.strip())
    absolute = path.is_absolute() or (backslashes and PureWindowsPath(path).drive != "")
    if not path.name or absolute or ".." in path.parts or "\0" in name:
        raise ValueError(f"got {name!r}, want the relative path of an image")
    return path


def parse_probability(text: str, tolerance: float = 0.0) -> float:
    """Parse a label and clip it to [0, 1]. Raises ValueError if it lies outside by more than `tolerance`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -tolerance <= value <= 1 + tolerance:  # true for NaN too
        raise ValueError(f"got {text.strip()!r}, want a number from 0 to 1")
    return min(max(value, 0.0), 1.0)


def parse_score(value: object, low: float, high: float) -> float:
    """Parse a score, text or number. Raises ValueError unless it lies in [low, high]."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.nan
    if not low <= result <= high:  # true for NaN too
        text = value.strip() if isinstance(value, str) else value
        raise ValueError(f"got {text!r}, want a number from {low:g} to {high:g}")
    return result


def sheet_rows(source: Path, sheet: str | None, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of an Excel sheet below its header, without blank ones: row number, and cell by column name.

    Args:
        source: an .xlsx file.
        sheet: its name; None for the first.
        columns: required in the header, which is one of the first ten rows.

    Raises: ImportError without openpyxl; ValueError naming the file: no workbook, no such sheet, no such header.
    """
    rows = [(number, row) for number, row in enumerate(_cells(source, sheet), 1) if any(c is not None for c in row)]
    headers = [(i, [cell_text(c) for c in row]) for i, (number, row) in enumerate(rows) if number <= LAST_HEADER_ROW]
    start, names = next((header for header in headers if columns[0] in header[1]), (0, []))
    require_columns(f"{source}: sheet {sheet or 1}", [name for name in names if name], columns)
    for number, row in rows[start + 1 :]:
        by_name = dict.fromkeys(names) | dict(zip(names, row, strict=False))  # a row may end early
        if any(by_name[name] is not None for name in columns):
            yield number, by_name


def _cells(source: Path, sheet: str | None) -> list[tuple[Any, ...]]:
    """All rows of a sheet. Raises as :func:`sheet_rows`."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ImportError(f"{source}: reading .xlsx files needs openpyxl: {install_command('train')}") from None
    try:
        with contextlib.closing(load_workbook(source, read_only=True, data_only=True)) as workbook:
            names = workbook.sheetnames
            wanted = names[0] if sheet is None else sheet
            rows = list(workbook[wanted].iter_rows(values_only=True)) if wanted in names else None
    except Exception as error:  # damaged files raise BadZipFile, KeyError, ParseError, InvalidFileException…
        raise ValueError(f"{source}: damaged, or not an Excel workbook: {error}") from error
    if rows is None:
        raise ValueError(f"{source}: got sheets {', '.join(names)}, want {sheet!r} among them")
    return rows


def cell_text(value: object) -> str:
    """The text of a cell: whole numbers without a decimal point, "" for an empty cell."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def matlab_vector(source: Path, variable: str, length: int) -> list[Any]:
    """The entries of a row or column in a MATLAB file: numbers, or the strings of its cells.

    Raises: ImportError without scipy; ValueError naming the file: damaged, no such variable, another length.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(f"{source}: reading .mat files needs scipy: {install_command('train')}") from None
    try:
        content = loadmat(source, variable_names=[variable])
    except Exception as error:  # damaged files raise struct.error, zlib.error, TypeError, MatReadError…
        raise ValueError(f"{source}: damaged, or not a MATLAB file of version 7 or older: {error}") from error
    if variable not in content:
        raise ValueError(f"{source}: got no variable {variable!r}, want it with {length} entries")
    values = content[variable].ravel().tolist()
    if len(values) != length:
        raise ValueError(f"{source}: got {len(values)} entries of {variable!r}, want {length}")
    return [value.item() if isinstance(value, np.ndarray) and value.size == 1 else value for value in values]
