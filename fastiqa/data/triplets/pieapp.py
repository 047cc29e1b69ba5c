"""PieAPP, pairwise labels: distorted images of a reference, and the share of people who found A closer to it.

    {train,val,test}_reference_list.txt                                          ref_<n>.png per line
    reference_images/{train,val,test}/ref_<n>.png                                256x256
    distorted_images/{split}/ref_<n>/distort_<n>_<type>_<inter|intra>_<id>.png
    labels/{split}/ref_<n>_pairwise_labels.csv                                   with a header line

Columns of the csv: reference, A, B, and the raw share that prefers A, blank if the pair was not shown. Train and val
also have the processed share, a maximum-likelihood estimate for every pair; it counts where there is one. In the test
split A or B may be the reference itself, which lies in reference_images.

Source: Prashnani et al., CVPR 2018, arXiv 1806.02067; github.com/prashnani/PerceptualImageError.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastiqa.common import arguments
from fastiqa.common.text import decoded
from fastiqa.data import tables
from fastiqa.data.report import OnProblem, Problem
from fastiqa.data.triplets.dataset import Triplet
from fastiqa.data.triplets.validation import Report, Row, triplet_report

SPLITS = ("train", "val", "test")
ROUNDING = 1e-3  # by which an estimated probability may leave [0, 1]
_DISTORTED = re.compile(r"distort_\d+_(.+)_(?:inter|intra)_[^_]+\.png")


def read_pieapp(
    folder: str | os.PathLike[str], split: str = "train", *, on_problem: OnProblem = "raise"
) -> list[Triplet]:
    """Read the labelled pairs of PieAPP, reference by reference in the order of the list.

    Args:
        folder: contains `labels`, `reference_images`, `distorted_images` and the lists.
        split: "train", "val" or "test".
        on_problem: "raise" at the first missing file, bad label or bad row, or "skip" them.

    Returns:
        Triplets with label 1 - (share that prefers A). The group is the type of distortion if A and B share it,
        "reference" if one of them is the reference, else "inter-type". Pairs without a label are skipped.

    Raises:
        FileNotFoundError: no list of the split. ValueError: another split; a problem, or no triplets at all; naming
            file and line.
    """
    return check_pieapp(folder, split).accepted(on_problem)


def check_pieapp(folder: str | os.PathLike[str], split: str = "train") -> Report:
    """Report the contents of the folder. Arguments as for :func:`read_pieapp`; raises for another split or no list."""
    arguments.one_of("split", split, SPLITS)
    root = Path(folder)
    reference_list = root / f"{split}_reference_list.txt"
    if not reference_list.is_file():
        raise FileNotFoundError(f"{reference_list}: no such file")
    rows: list[Row] = []
    problems: list[Problem] = []
    unlabelled = 0
    for name in decoded(reference_list.read_bytes()).split():
        labels = root / "labels" / split / f"{Path(name).stem}_pairwise_labels.csv"
        if not labels.is_file():
            problems.append(Problem("missing labels", str(reference_list), str(labels)))
            continue
        for number, fields in tables.csv_lines(labels, labels.read_bytes())[1:]:  # after the header
            row = _row(root, split, fields, f"{labels}:{number}")
            if isinstance(row, Row):
                rows.append(row)
            elif isinstance(row, Problem):
                problems.append(row)
            else:
                unlabelled += 1
    return triplet_report(f"PieAPP {split}", root, rows, problems, unlabelled=unlabelled)


def _row(root: Path, split: str, fields: list[str], where: str) -> Row | Problem | None:
    """Parse one line of a labels file; None if it has no label."""
    if len(fields) < 4:
        return Problem("bad row", where, f"got {len(fields)} columns, want at least reference, A, B and a label")
    try:
        ref, a, b = (str(tables.parse_relative_path(name)) for name in fields[:3])
    except ValueError as error:
        return Problem("bad row", where, str(error))
    share = next((text for text in (*fields[4:5], fields[3]) if text.strip()), None)
    if share is None:
        return None
    try:
        label = 1 - tables.parse_probability(share, tolerance=ROUNDING)
    except ValueError as error:
        return Problem("bad label", where, str(error))
    references, distorted = root / "reference_images" / split, root / "distorted_images" / split / Path(ref).stem
    candidates = [(references if name == ref else distorted) / name for name in (a, b)]
    return Row(Triplet(references / ref, candidates[0], candidates[1], label, _group(ref, a, b)), where)


def _group(ref: str, a: str, b: str) -> str:
    if ref in (a, b):
        return "reference"
    of_a, of_b = _DISTORTED.fullmatch(a), _DISTORTED.fullmatch(b)
    if of_a is None or of_b is None:
        return ""
    return of_a[1] if of_a[1] == of_b[1] else "inter-type"
