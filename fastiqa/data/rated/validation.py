"""RatedReport: the contents of a data set of rated images, and every unusable row.

A reader in ``fastiqa.data.rated.sets`` takes `Files` and yields the label file's rows as `Rating`. :func:`rated_report`
looks for the images, checks names, scores and official parts, and counts.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from fastiqa.data import tables
from fastiqa.data.rated.dataset import RatedImage
from fastiqa.data.report import LabelReport, Problem, Read

if TYPE_CHECKING:
    from typing_extensions import Self


class Files:
    """Finds files below a folder whatever the case of their names; lists every folder on the way once.

    Sets made on file systems that ignore case name I04_01_1.bmp in the table and i04_01_1.BMP on the disk.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, name: str | PurePosixPath) -> Path | None:
        """The file of a relative name, or None. The exact name goes before names in another case."""
        path = self.root
        for part in PurePosixPath(name).parts:
            listing = self._listing(path)
            actual = listing.get(part) or listing.get(part.casefold())
            if actual is None:
                return None
            path /= actual
        return path if path.is_file() else None

    def table(self, name: str) -> Path:
        """The file of a relative name. Raises FileNotFoundError where there is none."""
        path = self.find(name)
        if path is None:
            raise FileNotFoundError(f"{self.root / name}: no such file")
        return path

    def _listing(self, folder: Path) -> dict[str, str]:
        """The names in a folder, by name and by case-folded name."""
        if folder not in self._listings:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            self._listings[folder] = {name.casefold(): name for name in names} | {name: name for name in names}
        return self._listings[folder]


class Rating(NamedTuple):
    """An unchecked row of a label file.

    Attributes:
        image: file name relative to the set's folder.
        score: a number, or its text.
        reference, group: as in `RatedImage`.
        where: the label file and the line.
        part: "train", "val" or "test" if the set has an official split, else "".
    """

    image: str
    score: object
    reference: str
    group: str
    where: str
    part: str = ""


class Scale(NamedTuple):
    """The units of a data set's scores.

    Attributes:
        low, high: the range.
        higher_is_better: True for opinion scores, False for differences from the reference.
        tolerance: how far published scores may leave the range.
    """

    low: float
    high: float
    higher_is_better: bool
    tolerance: float = 0.0

    def quality(self, score: float) -> float:
        """Map a score linearly to 0, worst, to 1, best; scores outside the range leave [0, 1]."""
        share = (score - self.low) / (self.high - self.low)
        return share if self.higher_is_better else 1 - share

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, {'higher' if self.higher_is_better else 'lower'} is better"


@dataclass(frozen=True)
class RatedReport(LabelReport[RatedImage]):
    """The contents of a data set of rated images; see `LabelReport`.

    Attributes:
        images: the usable images.
        parts: the official part of each image, "train", "val" or "test"; "" without an official split.
        repeated: number of rows that repeat an earlier row.
        published: number of images in the set as published.
        scale: units of the scores.
    """

    noun = "images"

    images: tuple[RatedImage, ...]
    parts: tuple[str, ...]
    repeated: int
    published: int
    scale: Scale

    @property
    def records(self) -> tuple[RatedImage, ...]:
        """The images."""
        return self.images

    def paths(self) -> Iterator[Path]:
        """The files of the images."""
        return (image.image for image in self.images)

    def official_split(self) -> dict[str, list[RatedImage]]:
        """The images by official part; empty without an official split."""
        split: dict[str, list[RatedImage]] = {}
        for image, part in zip(self.images, self.parts, strict=True):
            if part:
                split.setdefault(part, []).append(image)
        return split

    def counts(self) -> dict[str, int]:
        """Counts by name, with the number of problems of each kind."""
        kinds = Counter(problem.kind for problem in self.problems)
        parts = {f"part_{part}": len(images) for part, images in sorted(self.official_split().items())}
        references = len({image.reference for image in self.images})
        counts = {"images": len(self.images), "published": self.published, "rows": self.rows}
        return {**counts, "repeated": self.repeated, "references": references, **parts, **kinds}

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON; "scores" holds the lowest and highest score and the scale."""
        scores = [image.score for image in self.images]
        found = {"lowest": min(scores), "highest": max(scores)} if scores else {}
        return {**super().as_dict(), "scores": {**found, "scale": self.scale._asdict()}}

    def __str__(self) -> str:
        first, *rest = super().__str__().split("\n")
        scores = [image.score for image in self.images] or [float("nan")]
        return "\n".join((first, f"  scores {min(scores):g} to {max(scores):g}, of {self.scale}", *rest))

    def after_reading(self, read: Read) -> Self:
        """The report without unreadable images."""
        reasons = {path: result for path, result in read.items() if isinstance(result, str)}
        kept = [pair for pair in zip(self.images, self.parts, strict=True) if pair[0].image not in reasons]
        problems = (Problem("unreadable image", str(path), reason) for path, reason in reasons.items())
        return dataclasses.replace(
            self,
            images=tuple(image for image, _ in kept),
            parts=tuple(part for _, part in kept),
            problems=(*self.problems, *problems),
        )


def rated_report(
    dataset: str, files: Files, ratings: Iterable[Rating | Problem], *, scale: Scale, published: int
) -> RatedReport:
    """Make a report from a reader's rows; problems keep the order of the rows."""
    images: dict[Path, tuple[RatedImage, str]] = {}
    problems: list[Problem] = []
    rows = repeated = 0
    for rating in ratings:
        rows += 1
        found = rating if isinstance(rating, Problem) else _rated(files, rating, scale)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        first = images.setdefault(found[0].image, found)
        if first != found:
            reason = f"got another score, content or part of {found[0].image.name} than above, want one row of it"
            problems.append(Problem("bad row", rating.where, reason))
        elif first is not found:
            repeated += 1
    return RatedReport(
        dataset=dataset,
        source=files.root,
        rows=rows,
        problems=tuple(problems),
        images=tuple(image for image, _ in images.values()),
        parts=tuple(part for _, part in images.values()),
        repeated=repeated,
        published=published,
        scale=scale,
    )


def _rated(files: Files, rating: Rating, scale: Scale) -> tuple[RatedImage, str] | Problem:
    """The image of a row and its official part, or the row's problem."""
    try:
        name = tables.parse_relative_path(rating.image)
    except ValueError as error:
        return Problem("bad row", rating.where, str(error))
    try:
        score = tables.parse_score(rating.score, scale.low - scale.tolerance, scale.high + scale.tolerance)
    except ValueError as error:
        return Problem("bad label", rating.where, str(error))
    path = files.find(name)
    if path is None:
        return Problem("missing file", rating.where, str(files.root / name))
    return RatedImage(path, score, rating.reference, rating.group), rating.part
