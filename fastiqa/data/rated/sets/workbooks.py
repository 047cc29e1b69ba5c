"""Sets whose labels are Excel sheets: CSIQ and SPAQ.

CSIQ, 30 references, 866 distorted images:

    dst_imgs/<folder>/<image>.<type>.<level>.png    csiq.DMOS.xlsx, sheet all_by_image, header in its fourth row:
                                                    image, dst_idx, dst_type, dst_lev, dmos_std, dmos

The image "1600" stands as a number in the sheet.

SPAQ, 11,125 smartphone photographs:

    TestImage/<name>.jpg    Annotations/MOS and Image attribute scores.xlsx: Image name, MOS, Brightness, ...

Sources: Larson and Chandler, JEI 2010, doi 10.1117/1.3267105; Fang et al., CVPR 2020, doi 10.1109/CVPR42600.2020.00373.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastiqa.data import tables
from fastiqa.data.rated.files import Files
from fastiqa.data.rated.validation import Rating
from fastiqa.data.report import Problem

# dst_type of the sheet -> folder and the type in file names
CSIQ_TYPES = {
    "noise": ("awgn", "AWGN"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
    "fnoise": ("fnoise", "fnoise"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg 2000": ("jpeg2000", "jpeg2000"),
}
LAST_HEADER_ROW = 10


def csiq(files: Files) -> Iterator[Rating | Problem]:
    """The rows of CSIQ."""
    source = files.table("csiq.DMOS.xlsx")
    for number, row in _rows(source, "all_by_image", ("image", "dst_type", "dst_lev", "dmos")):
        where = f"{source}:{number}"
        kind = _text(row["dst_type"])
        if kind not in CSIQ_TYPES:
            yield Problem("bad row", where, f"got dst_type {kind!r}, want one of {', '.join(CSIQ_TYPES)}")
            continue
        folder, name = CSIQ_TYPES[kind]
        image, level = _text(row["image"]), _text(row["dst_lev"])
        yield Rating(f"dst_imgs/{folder}/{image}.{name}.{level}.png", row["dmos"], image, folder, where)


def spaq(files: Files) -> Iterator[Rating]:
    """The rows of SPAQ."""
    source = files.table("Annotations/MOS and Image attribute scores.xlsx")
    for number, row in _rows(source, None, ("Image name", "MOS")):
        name = _text(row["Image name"])
        yield Rating(f"TestImage/{name}", row["MOS"], name, "", f"{source}:{number}")


def _rows(source: Path, sheet: str | None, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and cells by column of the rows below the header, blank ones left out; None is the first sheet.

    Raises: as `_cells`; ValueError naming the file where none of the first rows has all `columns`.
    """
    rows = [(number, row) for number, row in enumerate(_cells(source, sheet), 1) if any(c is not None for c in row)]
    headers = [(i, [_text(c) for c in row]) for i, (number, row) in enumerate(rows) if number <= LAST_HEADER_ROW]
    start, names = next((header for header in headers if columns[0] in header[1]), (0, []))
    tables.require_columns(f"{source}: sheet {sheet or 1}", [name for name in names if name], columns)
    for number, row in rows[start + 1 :]:
        by_name = dict.fromkeys(names) | dict(zip(names, row, strict=False))  # a row may end early
        if any(by_name[name] is not None for name in columns):
            yield number, by_name


def _cells(source: Path, sheet: str | None) -> list[tuple[Any, ...]]:
    """All rows of a sheet.

    Raises: ImportError without openpyxl; ValueError naming the file: no workbook, no such sheet.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ImportError(f"{source}: reading .xlsx files needs openpyxl: pip install fastiqa[train]") from None
    try:
        with contextlib.closing(load_workbook(source, read_only=True, data_only=True)) as workbook:
            names = workbook.sheetnames
            wanted = names[0] if sheet is None else sheet
            rows = list(workbook[wanted].iter_rows(values_only=True)) if wanted in names else None
    except Exception as error:  # damaged files are met with BadZipFile, KeyError, ParseError, InvalidFileException…
        raise ValueError(f"{source}: damaged, or not an Excel workbook: {error}") from error
    if rows is None:
        raise ValueError(f"{source}: got sheets {', '.join(names)}, want {sheet!r} among them")
    return rows


def _text(value: object) -> str:
    """A cell as text, a whole number without the point that Excel may store; "" for an empty one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()
