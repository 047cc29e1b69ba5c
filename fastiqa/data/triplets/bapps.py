"""BAPPS, two-alternative part: patches, two distortions of each, and the share of people who found p1 closer.

    2afc/train/{traditional,cnn,mix}/                                        56.6, 38.1 and 56.6 thousand, 2 votes each
    2afc/val/{traditional,cnn,superres,deblur,color,frameinterp}/            4.7, 4.7, 10.9, 9.4, 4.7, 1.9, 5 votes each
        {ref,p0,p1}/<name>.png    64x64        judge/<name>.npy    one number from 0 to 1

Source: Zhang et al., CVPR 2018, arXiv 1801.03924; github.com/richzhang/PerceptualSimilarity.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastiqa.common import arguments
from fastiqa.data.report import OnProblem, Problem
from fastiqa.data.triplets.dataset import Triplet
from fastiqa.data.triplets.validation import Report, Row, triplet_report

SUBSETS = {
    "train": ("traditional", "cnn", "mix"),
    "val": ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
}
_SUFFIXES = {"ref": ".png", "p0": ".png", "p1": ".png", "judge": ".npy"}


def read_bapps(
    folder: str | os.PathLike[str],
    split: str = "train",
    subsets: Sequence[str] | None = None,
    *,
    on_problem: OnProblem = "raise",
) -> list[Triplet]:
    """Read the triplets of BAPPS, subset by subset, sorted by name.

    Args:
        folder: contains `2afc`, or is `2afc` itself.
        split: "train" or "val".
        subsets: by default all of the split: traditional, cnn and mix for train; traditional, cnn, superres, deblur,
            color and frameinterp for val.
        on_problem: "raise" at the first missing file or bad label, or "skip" their triplets.

    Returns:
        Triplets with the subset as group; a is p0, b is p1.

    Raises:
        ValueError: another split or subset; a problem, or no triplets at all; naming the file.
    """
    return check_bapps(folder, split, subsets).accepted(on_problem)


def check_bapps(folder: str | os.PathLike[str], split: str = "train", subsets: Sequence[str] | None = None) -> Report:
    """Report a folder's contents. Arguments as for :func:`read_bapps`; ValueError for another subset or split."""
    arguments.one_of("split", split, tuple(SUBSETS))
    for name in subsets or ():
        arguments.one_of("subsets", name, SUBSETS[split])
    root = Path(folder)
    root = root / "2afc" if (root / "2afc").is_dir() else root
    rows: list[Row] = []
    problems: list[Problem] = []
    for name in subsets or SUBSETS[split]:
        subset = root / split / name
        if subset.is_dir():
            _read_subset(subset, rows, problems)
        else:
            problems.append(Problem("missing labels", str(subset), "no such folder"))
    # the folder listings have shown that every image is there
    return triplet_report(f"BAPPS {split}", root / split, rows, problems, check_files=False)


def _read_subset(subset: Path, rows: list[Row], problems: list[Problem]) -> None:
    """Append the rows and problems of one folder with ref, p0, p1 and judge."""
    stems = {part: {path.stem for path in (subset / part).glob(f"*{end}")} for part, end in _SUFFIXES.items()}
    for stem in sorted(set().union(*stems.values())):
        paths = {part: subset / part / f"{stem}{end}" for part, end in _SUFFIXES.items()}
        missing = [str(paths[part]) for part in _SUFFIXES if stem not in stems[part]]
        if missing:
            problems.append(Problem("missing file", str(subset / stem), ", ".join(missing)))
            continue
        try:
            label = _judgement(paths["judge"])
        except ValueError as error:
            problems.append(Problem("bad label", str(paths["judge"]), str(error)))
        else:
            triplet = Triplet(paths["ref"], paths["p0"], paths["p1"], label, subset.name)
            rows.append(Row(triplet, str(paths["judge"])))


def _judgement(path: Path) -> float:
    """Read the number in an .npy file. Raises ValueError, which does not name the file."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:  # a damaged header may ask for any size
        raise ValueError(f"not an array of numbers: {error}") from error
    if array.size != 1 or array.dtype.kind != "f" or not 0 <= array.item() <= 1:
        got = array.item() if array.size == 1 else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"got {got!r}, want one floating-point number from 0 to 1")
    return float(array.item())
