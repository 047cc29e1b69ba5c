"""triplets.csv, which ``fastiqa data synth`` writes and `read_synth` reads: one row a triplet, UTF-8, with a header.

ref, a, b           files relative to the folder, with forward slashes, as `fastiqa.common.text.csv_cell` writes names
label               probability in [0, 1] that b is closer to ref than a is
rule                "quality" or "metric": fastiqa.data.synth.options
group               the codec for "quality", "jpeg"; both codecs in alphabetical order for "metric", "avif-jpeg",
                    "jpeg-jpeg" (two settings, or one of them resized)
split               "train", "val" or "test"
photograph          file in the source folder, written likewise
a_codec, a_settings, a_bytes, a_score; b_…
                    codec, and all settings in order of application; size of the coded file in bytes; score by the
                    labelling metric

The profile "world" adds columns, and its scores are mean log-odds (`DistortedImage`):

weight              agreement of the metrics about the label, 0 to 1: fastiqa.data.synth.options.soft_label
a_<metric>, b_<metric>
                    score by each metric, such as a_ssimulacra2
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastiqa.common import arguments
from fastiqa.common.files import write_atomically
from fastiqa.common.text import csv_cell, from_csv_cell
from fastiqa.data.synth.photo import REFERENCE, Outcome
from fastiqa.data.triplets.dataset import Triplet
from fastiqa.data.triplets.validation import Report, Row, triplet_report

TRIPLETS = "triplets.csv"
SPLITS = ("train", "val", "test")
SIDES = ("codec", "settings", "bytes", "score")
COLUMNS = (
    *("ref", "a", "b", "label", "rule", "group", "split", "photograph"),
    *(f"{side}_{name}" for side in "ab" for name in SIDES),
)


def read_synth(folder: str | os.PathLike[str], split: str, *, rule: str | None = None) -> list[Triplet]:
    """Read the triplets of one split from a folder that ``fastiqa data synth`` wrote.

    Args:
        folder: the command's OUT.
        split: "train", "val" or "test"; no photograph is in two of them.
        rule: "quality" (same codec and settings) or "metric" (all others) selects triplets by the rule of their label;
            None takes both. All triplets of the profile "world" have "metric".

    Returns:
        Triplets in the order of the file, with paths below ``folder``; "quality" labels are 0 or 1. Triplets
        of the profile "world" have weights.

    Raises:
        ValueError: another split or rule; a missing file (the command has not finished), other columns, or a value out
            of range: naming file and line.
    """
    arguments.one_of("split", split, SPLITS)
    if rule not in (None, "quality", "metric"):
        raise ValueError(f"rule: got {rule!r}, want 'quality', 'metric' or None")
    path = Path(folder) / TRIPLETS
    return [triplet for _, triplet, row in _rows(path) if row["split"] == split and rule in (None, row["rule"])]


def check_synth(folder: str | os.PathLike[str], split: str) -> Report:
    """Report the contents of one split and its missing images. Raises as :func:`read_synth`."""
    arguments.one_of("split", split, SPLITS)
    path = Path(folder) / TRIPLETS
    rows = [Row(triplet, f"{path}:{line}") for line, triplet, row in _rows(path) if row["split"] == split]
    return triplet_report(f"synth {split}", path, rows, [])


def _rows(path: Path) -> list[tuple[int, Triplet, dict[str, str | None]]]:
    """All rows: line, triplet and fields."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            names = tuple(rows.fieldnames or ())
            metrics = [name[2:] for name in names[len(COLUMNS) + 1 :] if name.startswith("a_")]
            if names not in (COLUMNS, world_columns(metrics)):
                raise ValueError(f"{path}:1: got columns {rows.fieldnames}, want {','.join(COLUMNS)}")
            return [(rows.line_num, _triplet(row, path, rows.line_num), row) for row in rows]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: fastiqa data synth writes it when all else is there") from None


def _triplet(row: Mapping[str, str | None], path: Path, line: int) -> Triplet:
    if None in row or None in row.values():
        columns = len([name for name in row if name is not None])
        raise ValueError(f"{path}:{line}: got another number of fields, want {columns}")
    label = _share(row, "label", path, line)
    weight = _share(row, "weight", path, line) if "weight" in row else None
    ref, a, b = (path.parent / from_csv_cell(str(row[name])) for name in ("ref", "a", "b"))
    return Triplet(ref, a, b, label, str(row["group"]), weight)


def _share(row: Mapping[str, str | None], name: str, path: Path, line: int) -> float:
    """A number from 0 to 1."""
    try:
        value = float(row[name] or "")
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # true for NaN too
        raise ValueError(f"{path}:{line}: {name}: got {row[name]!r}, want a number from 0 to 1")
    return value


def world_columns(metrics: Sequence[str]) -> tuple[str, ...]:
    """The columns of the profile "world" with these metrics."""
    return (*COLUMNS, "weight", *(f"{side}_{name}" for side in "ab" for name in metrics))


def write_triplets(
    target: Path, source: Path, outcomes: Sequence[Outcome], splits: Mapping[str, str]
) -> dict[str, int]:
    """Write triplets.csv with the pairs of all usable photographs; return the number of triplets by split.

    Args:
        target: the folder to write to.
        source: the folder of the photographs; the table names them relative to it.
        outcomes: of all photographs, in any order.
        splits: "train", "val" or "test" by the SHA-256 of a photograph's content.

    Raises: OSError.
    """
    counts = dict.fromkeys(SPLITS, 0)
    stream = io.StringIO()
    named = next((o.photograph.labelled_by for o in outcomes if o.photograph and o.photograph.labelled_by), None)
    rows = csv.DictWriter(stream, COLUMNS if named is None else world_columns(list(named)), lineterminator="\n")
    rows.writeheader()
    for outcome in sorted(outcomes, key=lambda outcome: outcome.task.folder):
        split = splits[outcome.task.sha256]
        for row in _rows_of(outcome):
            photograph = csv_cell(outcome.task.source.relative_to(source).as_posix())
            rows.writerow(row | {"split": split, "photograph": photograph})
            counts[split] += 1
    write_atomically(target / TRIPLETS, stream.getvalue().encode())
    return counts


def _rows_of(outcome: Outcome) -> Iterator[dict[str, object]]:
    if outcome.photograph is None:
        return
    name, images = outcome.task.folder.name, outcome.photograph.images
    for pair in outcome.photograph.pairs:
        a, b = images[pair.a], images[pair.b]
        group = a.codec if a.ladder == b.ladder else "-".join(sorted((a.codec, b.codec)))
        row: dict[str, object] = {"ref": f"{name}/{REFERENCE}", "a": f"{name}/{a.file}", "b": f"{name}/{b.file}"}
        row |= {"label": pair.label, "rule": pair.rule, "group": group}
        row |= {name: csv_cell(str(row[name])) for name in ("ref", "a", "b")}
        for side, image in (("a", a), ("b", b)):
            row |= {f"{side}_{field}": getattr(image, field) for field in SIDES}
            row |= {f"{side}_{metric}": score for metric, score in (image.scores or {}).items()}
        if pair.weight is not None:
            row["weight"] = pair.weight
        yield row
