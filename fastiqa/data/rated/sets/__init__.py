"""Data sets of rated images as they are distributed; the modules of this package show the layouts.

One reader per set says what its label file says, row by row; names of files are looked up whatever their case. What a
scale is stands in :data:`SETS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastiqa.common import arguments
from fastiqa.data.rated.dataset import RatedImage
from fastiqa.data.rated.files import Files
from fastiqa.data.rated.sets import matlab, text, workbooks
from fastiqa.data.rated.split import PARTS, split_by_reference
from fastiqa.data.rated.validation import RatedReport, Rating, Scale, rated_report
from fastiqa.data.report import OnProblem, Problem

__all__ = ["SETS", "RatedSet", "read_rated"]


@dataclass(frozen=True)
class RatedSet:
    """A data set of rated images.

    Attributes:
        title: its name in tables.
        images: how many it has as published.
        scale: the units of its scores.
        reader: of the rows of its label file.
    """

    title: str
    images: int
    scale: Scale
    reader: Callable[[Files], Iterator[Rating | Problem]]

    def check(self, folder: str | os.PathLike[str]) -> RatedReport:
        """What the folder holds.

        Raises:
            FileNotFoundError: no such folder, no label file. ValueError: a label file that cannot be read, naming it.
            ImportError: a .mat file without scipy, an .xlsx file without openpyxl.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        files = Files(folder)
        return rated_report(self.title, files, self.reader(files), scale=self.scale, published=self.images)


SETS: dict[str, RatedSet] = {
    "live": RatedSet("LIVE", 779, Scale(0, 100, higher_is_better=False, tolerance=15), matlab.live),
    "csiq": RatedSet("CSIQ", 866, Scale(0, 1, higher_is_better=False), workbooks.csiq),
    "tid2013": RatedSet("TID2013", 3_000, Scale(0, 9, higher_is_better=True), text.tid2013),
    "kadid10k": RatedSet("KADID-10k", 10_125, Scale(1, 5, higher_is_better=True), text.kadid10k),
    "livec": RatedSet("LIVE Challenge", 1_162, Scale(0, 100, higher_is_better=True), matlab.challenge),
    "koniq10k": RatedSet("KonIQ-10k", 10_073, Scale(0, 100, higher_is_better=True), text.koniq10k),
    "spaq": RatedSet("SPAQ", 11_125, Scale(0, 100, higher_is_better=True), workbooks.spaq),
    "flive": RatedSet("FLIVE", 39_810, Scale(0, 100, higher_is_better=True), text.flive),
}


def read_rated(
    name: str,
    folder: str | os.PathLike[str],
    part: Literal["all", "train", "val", "test"] = "all",
    *,
    split_seed: int = 0,
    train: float = 0.8,
    val: float = 0.0,
    official: bool = True,
    scores: Literal["own", "quality", "unit"] = "own",
    on_problem: OnProblem = "raise",
) -> list[RatedImage]:
    """The rated images of a data set, or of one part of it.

    Args:
        name: of `SETS`: "live", "csiq", "tid2013", "kadid10k", "livec" (LIVE Challenge), "koniq10k", "spaq", "flive".
        folder: that the set was unpacked to.
        part: "all", or one of an official split (KonIQ-10k, FLIVE), or where there is none of a split by reference.
        split_seed, train, val: as of `split_by_reference`; without effect on an official split.
        official: take the official split where there is one; False splits by reference there too, for protocols with
            several random splits of KonIQ-10k.
        scores: "own" of the set; "quality", the same in the same units, but turned where lower is better (LIVE, CSIQ):
            low + high - score; or "unit": 0 for the worst and 1 for the best of its scale, so that sets can be trained
            on together.
        on_problem: "raise" at the first missing file, bad label or bad row, or "skip" them.

    Raises:
        FileNotFoundError: no such folder or label file. ImportError: see `RatedSet.check`. ValueError: an argument out
            of its range; a problem, or no images at all; naming file and line.
    """
    arguments.one_of("name", name, tuple(SETS))
    arguments.one_of("part", part, ("all", *PARTS))
    arguments.one_of("scores", scores, ("own", "quality", "unit"))
    arguments.flag("official", official)
    report, scale = SETS[name].check(folder), SETS[name].scale
    images = report.accepted(on_problem)
    if part != "all":
        split = (official and report.official_split()) or split_by_reference(images, split_seed, train, val)
        images = split.get(part, [])
        if not images:
            named = ", ".join(name for name, members in split.items() if members)
            raise ValueError(f"part: got {part!r}, which has no images, want one of {named}")
    if scores == "unit":
        return [image._replace(score=scale.quality(image.score)) for image in images]
    if scores == "quality" and not scale.higher_is_better:
        return [image._replace(score=scale.low + scale.high - image.score) for image in images]
    return images
