"""Report: the contents of a data set of labelled triplets, and every unusable row.

A reader yields rows and problems. :func:`triplet_report` looks for the files, averages rows of one triplet to a soft
label, and counts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from fastiqa.data.images import archives
from fastiqa.data.report import LabelReport, Problem, Read
from fastiqa.data.triplets.dataset import Triplet

if TYPE_CHECKING:
    from typing_extensions import Self


class Row(NamedTuple):
    """A labelled row: its triplet, and its file and line."""

    triplet: Triplet
    where: str


@dataclass(frozen=True)
class Report(LabelReport[Triplet]):
    """The contents of a data set of triplets; see `LabelReport`.

    Attributes:
        unlabelled: number of rows with a blank label, as PieAPP has them; they are no problem.
        triplets: the usable triplets, each once unless duplicates are kept.
        duplicates: number of labelled rows beyond the first of their triplet.
        conflicting: number of triplets whose rows disagree about the label.
    """

    noun = "triplets"

    unlabelled: int
    triplets: tuple[Triplet, ...]
    duplicates: int
    conflicting: int

    @property
    def records(self) -> tuple[Triplet, ...]:
        """The triplets."""
        return self.triplets

    def paths(self) -> Iterator[Path]:
        """The three images of each triplet."""
        return (path for triplet in self.triplets for path in triplet[:3])

    @property
    def references(self) -> int:
        """The number of distinct reference images."""
        return len({triplet.ref for triplet in self.triplets})

    @property
    def images(self) -> int:
        """The number of distinct images, references included."""
        return len(set(self.paths()))

    @property
    def same_candidates(self) -> int:
        """The number of triplets with one file as A and B, which teach nothing."""
        return sum(triplet.a == triplet.b for triplet in self.triplets)

    @property
    def preferences(self) -> dict[str, int]:
        """The number of triplets whose label prefers "a" (below one half), "b" (above) or "neither"."""
        labels = [triplet.label for triplet in self.triplets]
        a, b = sum(label < 0.5 for label in labels), sum(label > 0.5 for label in labels)
        return {"a": a, "b": b, "neither": len(labels) - a - b}

    def counts(self) -> dict[str, int]:
        """Counts by name, with the number of problems of each kind."""
        kinds = Counter(problem.kind for problem in self.problems)
        names = ("rows", "unlabelled", "duplicates", "conflicting", "references", "images", "same_candidates")
        preferences = {f"prefer_{name}": count for name, count in self.preferences.items()}
        return {"triplets": len(self.triplets), **{name: getattr(self, name) for name in names}, **preferences, **kinds}

    def after_reading(self, read: Read) -> Self:
        """The report without triplets whose images are unreadable or differ in size."""
        reasons = {path: result for path, result in read.items() if isinstance(result, str)}
        triplets = []
        for triplet in self.triplets:
            ref, *candidates = triplet[:3]
            if any(isinstance(read[path], str) for path in triplet[:3]):
                continue
            odd = [path for path in candidates if read[path] != read[ref]]
            reasons |= dict.fromkeys(odd, f"its size is not that of its reference {ref}")
            if not odd:
                triplets.append(triplet)
        problems = (Problem("unreadable image", str(path), reason) for path, reason in reasons.items())
        return dataclasses.replace(self, triplets=tuple(triplets), problems=(*self.problems, *problems))


def triplet_report(
    dataset: str,
    source: Path,
    rows: list[Row],
    problems: list[Problem],
    *,
    unlabelled: int = 0,
    average_duplicates: bool = True,
    check_files: bool = True,
) -> Report:
    """Make a report from a reader's rows and problems.

    Triplets with a missing file are dropped; the file is a problem once, at the first row that names it. Problems
    count as rows too, except for missing labels.

    Args:
        dataset: its name, with the split if it has splits.
        source: the file or folder that was read.
        rows, problems: from the reader, in the order of the source.
        unlabelled: number of rows with a blank label.
        average_duplicates: average the labels of equal (ref, a, b); False keeps every row.
        check_files: check that the images exist.
    """
    by_files: dict[tuple[Path, Path, Path], list[Triplet]] = {}
    for row in rows:
        by_files.setdefault(row.triplet[:3], []).append(row.triplet)
    triplets = [row.triplet for row in rows]
    if average_duplicates:
        triplets = [same[0]._replace(label=fmean(t.label for t in same)) for same in by_files.values()]
    missing = _missing_files(rows) if check_files else {}
    return Report(
        dataset=dataset,
        source=source,
        rows=len(rows) + sum(problem.kind != "missing labels" for problem in problems),
        unlabelled=unlabelled,
        triplets=tuple(triplet for triplet in triplets if missing.keys().isdisjoint(triplet[:3])),
        duplicates=len(rows) - len(by_files),
        conflicting=sum(len({triplet.label for triplet in same}) > 1 for same in by_files.values()),
        problems=(*problems, *missing.values()),
    )


def _missing_files(rows: list[Row]) -> dict[Path, Problem]:
    """The missing files, each with the first row that names it."""
    first = {path: row.where for row in reversed(rows) for path in row.triplet[:3]}
    named = dict.fromkeys(path for row in rows for path in row.triplet[:3])
    return {path: Problem("missing file", first[path], str(path)) for path in named if not archives.is_file(path)}
