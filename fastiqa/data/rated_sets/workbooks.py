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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastiqa.data import tables
from fastiqa.data.files import Files
from fastiqa.data.rated_validation import Rating
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
        kind = str(row["dst_type"]).strip()
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

    Raises: ImportError without openpyxl; ValueError naming the file: no workbook, no such sheet, no header with all
        `columns` in the first rows.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ImportError(f"{source}: reading .xlsx files needs openpyxl: pip install fastiqa[train]") from None
    try:
        workbook = load_workbook(source, read_only=True, data_only=True)
    except Exception as error:  # damaged files are met with BadZipFile, KeyError, ParseError, InvalidFileException…
        raise ValueError(f"{source}: damaged, or not an Excel workbook: {error}") from error
    try:
        if sheet is not None and sheet not in workbook.sheetnames:
            raise ValueError(f"{source}: got sheets {', '.join(workbook.sheetnames)}, want {sheet!r} among them")
        cells = workbook[sheet or workbook.sheetnames[0]].iter_rows(values_only=True)
        rows = [(number, row) for number, row in enumerate(cells, 1) if any(cell is not None for cell in row)]
    finally:
        workbook.close()
    headers = [(i, row) for i, (number, row) in enumerate(rows) if number <= LAST_HEADER_ROW and columns[0] in row]
    start, names = headers[0] if headers else (-1, rows[0][1] if rows else ())
    tables.require_columns(str(source), [str(name).strip() for name in names if name is not None], columns)
    for number, row in rows[start + 1 :]:
        by_name = dict(zip(names, row, strict=False))
        if any(by_name[name] is not None for name in columns):
            yield number, by_name


def _text(value: object) -> str:
    """A cell as text, a whole number without the point that Excel may store."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
