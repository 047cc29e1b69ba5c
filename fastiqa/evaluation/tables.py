"""Tables of evaluations on rated images: csv for machines, Markdown in the shape of papers' tables."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastiqa.common.files import write_atomically
from fastiqa.common.text import csv_cell, one_line
from fastiqa.evaluation.rated import Correlations, RatedEvaluation

COLUMNS = ("method", "trained_on", "dataset", "group", "split", *Correlations._fields)
ABSENT = "–"
Cells = Mapping[tuple[str, str], Correlations]  # by method and column


def write_csv(path: str | os.PathLike[str], evaluations: Sequence[RatedEvaluation]) -> None:
    """Write a header, then a line per evaluation and group, atomically.

    Group "" stands for all images, "nan" for an undefined measure. `fastiqa.common.text.csv_cell` writes texts.

    Raises: OSError.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e in evaluations:
        for group, measures in {"": e.overall, **e.groups}.items():
            values = (f"{value:.6g}" for value in measures)
            names = map(csv_cell, (e.method, e.trained_on, e.dataset, group, e.split))
            writer.writerow((*names, *values))
    write_atomically(Path(path), stream.getvalue().encode())


def markdown_table(evaluations: Sequence[RatedEvaluation], *, fitted: bool = True) -> str:
    """Make a table with methods in rows and data sets in columns, PLCC and SRCC each.

    A method trained on another set has a row of its own, "method (trained on KonIQ-10k)". With several rows the best of
    a column is bold; "–" stands for absent or undefined.

    Args:
        evaluations: one for each method, training set and test set; see `medians`.
        fitted: take the PLCC after the logistic fit; the heading says so.

    Raises: ValueError for no evaluations, or two of the same method and sets.
    """
    cells: dict[tuple[str, str], Correlations] = {}
    for e in evaluations:
        _add(cells, _row_name(e), e.dataset, e.overall)
    return _rendered("method", cells, fitted, methods_in_rows=True)


def markdown_table_by_group(evaluations: Sequence[RatedEvaluation], *, fitted: bool = True) -> str:
    """Make a table with types of distortion in rows and methods in columns, for evaluations on one data set.

    With several methods the best of a row is bold. Otherwise like `markdown_table`, with the same arguments and errors.
    """
    cells: dict[tuple[str, str], Correlations] = {}
    for e in evaluations:
        if e.dataset != evaluations[0].dataset:
            raise ValueError(f"evaluations: got data sets {evaluations[0].dataset!r} and {e.dataset!r}, want one")
        for group, measures in e.groups.items():
            _add(cells, _row_name(e), group, measures)
    return _rendered("type", cells, fitted, methods_in_rows=False)


def _row_name(evaluation: RatedEvaluation) -> str:
    return evaluation.method + (f" (trained on {evaluation.trained_on})" if evaluation.trained_on else "")


def _add(cells: dict[tuple[str, str], Correlations], method: str, column: str, measures: Correlations) -> None:
    if (method, column) in cells:
        raise ValueError(f"evaluations: got two of {method!r} on {column!r}, want one: take `medians` first")
    cells[method, column] = measures


def _rendered(corner: str, cells: Cells, fitted: bool, methods_in_rows: bool) -> str:
    """Render the table as Markdown, with two columns per cell: PLCC and SRCC."""
    if not cells:
        raise ValueError("evaluations: got none with anything to show, want at least one")
    methods, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    rows, across = (methods, columns) if methods_in_rows else (columns, methods)
    linear, ranks = _texts(cells, "plcc_fitted" if fitted else "plcc"), _texts(cells, "srcc")
    titles = ("PLCC fitted" if fitted else "PLCC", "SRCC")
    lines = [
        [corner, *(f"{name} {title}" for name in across for title in titles)],
        ["---", *["---:"] * (2 * len(across))],
    ]
    for row in rows:
        keys = [(row, name) if methods_in_rows else (name, row) for name in across]
        lines.append([row, *(texts.get(key, ABSENT) for key in keys for texts in (linear, ranks))])
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _texts(cells: Cells, measure: str) -> dict[tuple[str, str], str]:
    """One measure of every cell, with three decimals; with several methods, the best of a column is bold."""
    columns: dict[str, dict[str, float]] = {}
    for (method, column), measures in cells.items():
        columns.setdefault(column, {})[method] = getattr(measures, measure)
    texts = {}
    for column, values in columns.items():
        best = max((value for value in values.values() if not math.isnan(value)), default=math.nan)
        for method, value in values.items():
            text = ABSENT if math.isnan(value) else f"{value:.3f}"
            texts[method, column] = f"**{text}**" if value == best and len(values) > 1 else text
    return texts


def _escaped(text: str) -> str:
    return one_line(text).replace("|", "\\|")
