"""Tables of evaluations on rated images: csv for machines, Markdown shaped like the tables of papers."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastiqa._files import write_atomically
from fastiqa.data.images import one_line
from fastiqa.metrics.rated_evaluation import Correlations, RatedEvaluation

COLUMNS = ("method", "trained_on", "dataset", "group", "split", *Correlations._fields)
Cells = Mapping[tuple[str, str], Correlations]  # by method and column


def write_csv(path: str | os.PathLike[str], evaluations: Sequence[RatedEvaluation]) -> None:
    """Write a header, then a line per evaluation and group, all or nothing.

    Group "" is all images, "nan" an undefined measure.

    Raises: OSError.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e in evaluations:
        for group, measures in {"": e.overall, **e.groups}.items():
            values = (f"{value:.6g}" for value in measures)
            writer.writerow((e.method, e.trained_on, e.dataset, group, e.split, *values))
    write_atomically(Path(path), stream.getvalue().encode())


def markdown_table(evaluations: Sequence[RatedEvaluation], *, fitted: bool = True) -> str:
    """Methods in rows, data sets in columns, PLCC and SRCC of each.

    A method trained on another set has a row of its own, "method (trained on KonIQ-10k)". The best of a column is bold
    where there are several rows; "–" stands for absent or undefined.

    Args:
        evaluations: one of each method, set trained on and set tested on; see `medians`.
        fitted: whether the PLCC is that after the logistic fit; the heading says so.

    Raises: ValueError: no evaluations, or two alike.
    """
    cells: dict[tuple[str, str], Correlations] = {}
    for e in evaluations:
        _add(cells, _row_name(e), e.dataset, e.overall)
    return _rendered("method", cells, fitted, methods_in_rows=True)


def markdown_table_by_group(evaluations: Sequence[RatedEvaluation], *, fitted: bool = True) -> str:
    """Types of distortion in rows, methods in columns, PLCC and SRCC of each: evaluations on one data set.

    The best of a row is bold where there are several methods; otherwise, arguments and errors, as `markdown_table`.
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
    """The table as Markdown, every cell two: PLCC and SRCC."""
    if not cells:
        raise ValueError("evaluations: got none with anything to show, want at least one")
    methods, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    texts = {(method, column): ("–", "–") for method in methods for column in columns}
    for column in columns:
        present = [method for method in methods if (method, column) in cells]
        measures = [cells[method, column] for method in present]
        linear = _with_best_bold([m.plcc_fitted if fitted else m.plcc for m in measures])
        ranks = _with_best_bold([m.srcc for m in measures])
        texts.update(zip(((method, column) for method in present), zip(linear, ranks, strict=True), strict=True))
    down, across = (methods, columns) if methods_in_rows else (columns, methods)
    head = [
        corner,
        *(f"{name} {measure}" for name in across for measure in ("PLCC fitted" if fitted else "PLCC", "SRCC")),
    ]
    rows = [
        [left, *(text for right in across for text in texts[(left, right) if methods_in_rows else (right, left)])]
        for left in down
    ]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(map(_escaped, row))} |\n" for row in (head, rule, *rows))


def _with_best_bold(values: Sequence[float]) -> list[str]:
    """Three decimals each; the highest bold if there are several, and "–" for NaN."""
    best = max((value for value in values if not math.isnan(value)), default=math.nan)
    texts = ["–" if math.isnan(value) else f"{value:.3f}" for value in values]
    return [
        f"**{text}**" if len(values) > 1 and value == best else text for text, value in zip(texts, values, strict=True)
    ]


def _escaped(text: str) -> str:
    return one_line(text).replace("|", "\\|")
