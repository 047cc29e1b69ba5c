"""Report: what a data set of labelled triplets holds, and every row of it that cannot be used.

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
    """A labelled row: its triplet, and the file and line that it comes from."""

    triplet: Triplet
    where: str


@dataclass(frozen=True)
class Report(LabelReport[Triplet]):
    """What a data set of triplets holds; see `LabelReport`.

    Attributes:
        unlabelled: rows whose label is left blank, as PieAPP has them; these are no problem.
        triplets: the usable ones, every one once unless duplicates were to be kept.
        duplicates: rows with a good label beyond the first of their triplet.
        conflicting: triplets whose rows do not agree in the label.
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
        """Distinct reference images."""
        return len({triplet.ref for triplet in self.triplets})

    @property
    def images(self) -> int:
        """Distinct images, references included."""
        return len(set(self.paths()))

    @property
    def same_candidates(self) -> int:
        """Triplets in which A and B are one file: nothing is to be learned from them."""
        return sum(triplet.a == triplet.b for triplet in self.triplets)

    @property
    def preferences(self) -> dict[str, int]:
        """Triplets whose label prefers "a" (below one half), "b" (above) and "neither"."""
        labels = [triplet.label for triplet in self.triplets]
        a, b = sum(label < 0.5 for label in labels), sum(label > 0.5 for label in labels)
        return {"a": a, "b": b, "neither": len(labels) - a - b}

    def counts(self) -> dict[str, int]:
        """All counts by name, and the problems of each kind."""
        kinds = Counter(problem.kind for problem in self.problems)
        names = ("rows", "unlabelled", "duplicates", "conflicting", "references", "images", "same_candidates")
        preferences = {f"prefer_{name}": count for name, count in self.preferences.items()}
        return {"triplets": len(self.triplets), **{name: getattr(self, name) for name in names}, **preferences, **kinds}

    def after_reading(self, read: Read) -> Self:
        """The report without the triplets whose images cannot be read, or differ in size."""
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
    """A report from a reader's rows and problems.

    Labels of equal (ref, a, b) are averaged unless `average_duplicates` is False. Then triplets with a missing file are
    left out; the file is a problem once, at the first row that names it. What came in as a problem was a row, too,
    except for missing labels.
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
    """Files that do not exist, each with the first row that names it."""
    first = {path: row.where for row in reversed(rows) for path in row.triplet[:3]}
    named = dict.fromkeys(path for row in rows for path in row.triplet[:3])
    return {path: Problem("missing file", first[path], str(path)) for path in named if not archives.is_file(path)}
