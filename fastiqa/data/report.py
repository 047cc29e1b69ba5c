"""LabelReport: the contents of a labelled data set, and every unusable row.

A reader yields rows and problems; ``fastiqa.data.triplets.validation`` and ``fastiqa.data.rated.validation`` turn them
into a report. :func:`decode` reads every image, to find damaged files before training does.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from fastiqa.common import arguments
from fastiqa.common.text import one_line
from fastiqa.data.images.reading import ImageError, read_image
from fastiqa.data.rated.dataset import RatedImage
from fastiqa.data.triplets.dataset import Triplet

if TYPE_CHECKING:
    from typing_extensions import Self

OnProblem = Literal["raise", "skip"]
MOST_LISTED = 20

_log = logging.getLogger("fastiqa")


class Problem(NamedTuple):
    """An unusable row, label or file.

    Attributes:
        kind: "missing labels" (a whole file or folder of them), "missing file", "bad label", "bad row" or "unreadable
            image".
        where: the file, with the line number if it has lines.
        reason: "got X, want Y", without the file's name.
    """

    kind: str
    where: str
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.kind}: {self.reason}")


Record = TypeVar("Record", Triplet, RatedImage)
Read = Mapping[Path, "tuple[int, ...] | str"]  # the shape of every image, or why it cannot be read


@dataclass(frozen=True)
class LabelReport(ABC, Generic[Record]):
    """The contents of a data set. ``str(report)`` is a page for people, :meth:`as_dict` the same for JSON.

    Attributes:
        noun: the records' name in messages.
        dataset: its name, with the split if it has splits.
        source: the file or folder that was read.
        rows: number of labelled rows, usable or not.
        problems: in the order of the source.
    """

    noun: ClassVar[str]

    dataset: str
    source: Path
    rows: int
    problems: tuple[Problem, ...]

    @property
    @abstractmethod
    def records(self) -> tuple[Record, ...]:
        """The usable records."""

    @abstractmethod
    def paths(self) -> Iterable[Path]:
        """The image files of all records, with repetitions."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Counts by name, with the number of problems of each kind."""

    @abstractmethod
    def after_reading(self, read: Read) -> Self:
        """The report without the records whose images cannot be used."""

    @property
    def groups(self) -> dict[str, int]:
        """The number of records by group, the most frequent first; "" is an unknown group."""
        return dict(Counter(record.group for record in self.records).most_common())

    def accepted(self, on_problem: OnProblem = "raise") -> list[Record]:
        """The usable records; with "skip" the logger ``fastiqa`` warns of the problems.

        Raises: ValueError for no usable record; with "raise" also for any problem, naming the first.
        """
        arguments.one_of("on_problem", on_problem, ("raise", "skip"))
        if self.problems:
            more = len(self.problems) - 1
            summary = f"{self.problems[0]}" + (f"; and {more} more problem{'s' * (more > 1)}" if more else "")
            if on_problem == "raise" or not self.records:
                raise ValueError(summary)
            _log.warning("%s; skipped, %d %s are left", summary, len(self.records), self.noun)
        if not self.records:
            raise ValueError(f"{self.source}: got no labelled {self.noun}, want at least one")
        return list(self.records)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON: dataset, source, counts, groups, and each problem as {"kind", "where", "reason"}."""
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
            lines += [f"  {self.noun} by group", *(f"    {name or '?':<30}{n:>9}" for name, n in self.groups.items())]
        if self.problems:
            lines += ["  problems", *(f"    {problem}" for problem in self.problems[:MOST_LISTED])]
        if len(self.problems) > MOST_LISTED:
            lines.append(f"    and {len(self.problems) - MOST_LISTED} more")
        return "\n".join(lines)


AnyReport = TypeVar("AnyReport", bound="LabelReport[Any]")


def decode(report: AnyReport, threads: int = 4, on_image: Callable[[int, int], None] | None = None) -> AnyReport:
    """Read every image that a report names.

    Args:
        report: from a `check_` function.
        threads: number of reading threads.
        on_image: called after each image with the number read so far and the total.

    Returns:
        The report without records whose images are unreadable or differ in size; these become problems.
    """
    paths = list(dict.fromkeys(report.paths()))
    read: dict[Path, tuple[int, ...] | str] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for path, result in zip(paths, pool.map(_shape_or_reason, paths), strict=True):
            read[path] = result
            if on_image:
                on_image(len(read), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return report.after_reading(read)


def _shape_or_reason(path: Path) -> tuple[int, ...] | str:
    try:
        return read_image(path).pixels.shape
    except ImageError as error:
        return error.reason
