"""Report: what a labelled data set holds, and every row of it that cannot be used.

A reader yields rows and problems; :func:`assemble` looks for the files, averages rows of one triplet to a soft label
and counts. :func:`decode` reads every image, so that a damaged file is found before the training and not in its middle.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from fastiqa.data import archives
from fastiqa.data.images import ImageError, one_line, read_image
from fastiqa.data.triplets import Triplet
from fastiqa.reference import arguments

OnProblem = Literal["raise", "skip"]
MOST_LISTED = 20

_log = logging.getLogger("fastiqa")


class Problem(NamedTuple):
    """Something that cannot be used.

    Attributes:
        kind: "missing labels" (a whole file or folder of them), "missing file", "bad label", "bad row" or "unreadable
            image".
        where: the file, with the line where it has lines.
        reason: what was found and what was wanted, without the file's name.
    """

    kind: str
    where: str
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.kind}: {self.reason}")


class Row(NamedTuple):
    """A labelled row: its triplet, and the file and line that it comes from."""

    triplet: Triplet
    where: str


@dataclass(frozen=True)
class Report:
    """What a data set holds. ``str(report)`` is a page for people, :meth:`as_dict` the same for JSON.

    Attributes:
        dataset: its name, with the split where it has splits.
        source: the file or folder that was read.
        rows: labelled rows, usable or not.
        unlabelled: rows whose label is left blank, as PieAPP has them; these are no problem.
        triplets: the usable ones, every one once unless duplicates were to be kept.
        duplicates: rows with a good label beyond the first of their triplet.
        conflicting: triplets whose rows do not agree in the label.
        problems: what cannot be used, in the order of the source.
    """

    dataset: str
    source: Path
    rows: int
    unlabelled: int
    triplets: tuple[Triplet, ...]
    duplicates: int
    conflicting: int
    problems: tuple[Problem, ...]

    @property
    def references(self) -> int:
        """Distinct reference images."""
        return len({triplet.ref for triplet in self.triplets})

    @property
    def images(self) -> int:
        """Distinct images, references included."""
        return len({path for triplet in self.triplets for path in triplet[:3]})

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

    @property
    def groups(self) -> dict[str, int]:
        """Triplets by group, the most frequent first; "" stands for unknown."""
        return dict(Counter(triplet.group for triplet in self.triplets).most_common())

    def accepted(self, on_problem: OnProblem = "raise") -> list[Triplet]:
        """The usable triplets; with "skip" a warning of the logger ``fastiqa`` says what was left out.

        Raises: ValueError where there is none, and with "raise" at any problem, naming the first.
        """
        arguments.one_of("on_problem", on_problem, ("raise", "skip"))
        if self.problems:
            more = len(self.problems) - 1
            summary = f"{self.problems[0]}" + (f"; and {more} more problem{'s' * (more > 1)}" if more else "")
            if on_problem == "raise" or not self.triplets:
                raise ValueError(summary)
            _log.warning("%s; skipped, %d triplets are left", summary, len(self.triplets))
        if not self.triplets:
            raise ValueError(f"{self.source}: got no labelled triplets, want at least one")
        return list(self.triplets)

    def counts(self) -> dict[str, int]:
        """All counts by name, and the problems of each kind."""
        kinds = Counter(problem.kind for problem in self.problems)
        names = ("rows", "unlabelled", "duplicates", "conflicting", "references", "images", "same_candidates")
        preferences = {f"prefer_{name}": count for name, count in self.preferences.items()}
        return {"triplets": len(self.triplets), **{name: getattr(self, name) for name in names}, **preferences, **kinds}

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: dataset, source, counts, groups, and every problem as {"kind", "where", "reason"}."""
        return {
            "dataset": self.dataset,
            "source": str(self.source),
            "counts": self.counts(),
            "groups": self.groups,
            "problems": [problem._asdict() for problem in self.problems],
        }

    def __str__(self) -> str:
        lines = [f"{self.dataset}: {one_line(str(self.source))}"]
        lines += [f"  {name.replace('_', ' '):<18}{count:>9}" for name, count in self.counts().items()]
        if set(self.groups) - {""}:
            lines += ["  triplets by group", *(f"    {name or '?':<30}{n:>9}" for name, n in self.groups.items())]
        if self.problems:
            lines += ["  problems", *(f"    {problem}" for problem in self.problems[:MOST_LISTED])]
        if len(self.problems) > MOST_LISTED:
            lines.append(f"    and {len(self.problems) - MOST_LISTED} more")
        return "\n".join(lines)


def assemble(
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


def decode(report: Report, threads: int = 4, on_image: Callable[[int, int], None] | None = None) -> Report:
    """The report after every image has been read: without the triplets whose images cannot be, or differ in size.

    Args:
        report: of a `check_` function.
        threads: that read.
        on_image: called after each image with the number read so far and the number of all.
    """
    paths = list(dict.fromkeys(path for triplet in report.triplets for path in triplet[:3]))
    read: dict[Path, tuple[int, ...] | str] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for path, result in zip(paths, pool.map(_shape_or_reason, paths), strict=True):
            read[path] = result
            if on_image:
                on_image(len(read), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for all that is left
    reasons = {path: result for path, result in read.items() if isinstance(result, str)}
    triplets = []
    for triplet in report.triplets:
        ref, *candidates = triplet[:3]
        if any(isinstance(read[path], str) for path in triplet[:3]):
            continue
        odd = [path for path in candidates if read[path] != read[ref]]
        reasons |= dict.fromkeys(odd, f"its size is not that of its reference {ref}")
        if not odd:
            triplets.append(triplet)
    problems = (Problem("unreadable image", str(path), reason) for path, reason in reasons.items())
    return dataclasses.replace(report, triplets=tuple(triplets), problems=(*report.problems, *problems))


def _missing_files(rows: list[Row]) -> dict[Path, Problem]:
    """Files that do not exist, each with the first row that names it."""
    first = {path: row.where for row in reversed(rows) for path in row.triplet[:3]}
    named = dict.fromkeys(path for row in rows for path in row.triplet[:3])
    return {path: Problem("missing file", first[path], str(path)) for path in named if not archives.is_file(path)}


def _shape_or_reason(path: Path) -> tuple[int, ...] | str:
    try:
        return read_image(path).pixels.shape
    except ImageError as error:
        return error.reason
