"""write_triplets: triplets.csv from the records of the photographs. Its columns: fastiqa.data.synth.table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastiqa.common.files import write_atomically
from fastiqa.common.text import csv_cell
from fastiqa.data.synth.photo import REFERENCE, Outcome
from fastiqa.data.synth.table import COLUMNS, SIDES, SPLITS, TRIPLETS


def write_triplets(
    target: Path, source: Path, outcomes: Sequence[Outcome], splits: Mapping[str, str]
) -> dict[str, int]:
    """Write triplets.csv of everything that is not bad; the number of triplets by split.

    Args:
        splits: by the SHA-256 of a photograph's content.
    """
    counts = dict.fromkeys(SPLITS, 0)
    stream = io.StringIO()
    rows = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    rows.writeheader()
    for outcome in sorted(outcomes, key=lambda outcome: outcome.task.folder):
        split = splits[outcome.task.sha256]
        for row in _rows(outcome):
            photograph = csv_cell(outcome.task.source.relative_to(source).as_posix())
            rows.writerow(row | {"split": split, "photograph": photograph})
            counts[split] += 1
    write_atomically(target / TRIPLETS, stream.getvalue().encode())
    return counts


def _rows(outcome: Outcome) -> Iterator[dict[str, object]]:
    if outcome.photograph is None:
        return
    name, images = outcome.task.folder.name, outcome.photograph.images
    for pair in outcome.photograph.pairs:
        a, b = images[pair.a], images[pair.b]
        group = a.codec if pair.rule == "quality" else "-".join(sorted((a.codec, b.codec)))
        row: dict[str, object] = {"ref": f"{name}/{REFERENCE}", "a": f"{name}/{a.file}", "b": f"{name}/{b.file}"}
        row |= {"label": pair.label, "rule": pair.rule, "group": group}
        row |= {name: csv_cell(str(row[name])) for name in ("ref", "a", "b")}
        for side, image in (("a", a), ("b", b)):
            row |= {f"{side}_{field}": getattr(image, field) for field in SIDES}
        yield row
