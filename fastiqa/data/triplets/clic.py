"""CLIC's perceptual track: crops of an original, coded by two systems, and which one people preferred.

    oracle.csv        O,A,B,T per line; a header is skipped; paths of PNG files below one folder;
                      T = 1: B is preferred, 0: A
    *.png             768x768, some smaller, flat in the folder (validation set, 2,730 files) or in the archives
                      0.tar ... f.tar (2021 test set) or 0.zip ... f.zip (2022), by the first digit of the name

The test set's labels are unfiltered: a triplet may have several rows with different T, one for each person's answer.
Their mean is the triplet's label.

Source: github.com/fab-jul/clic2021-devkit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fastiqa.data import tables
from fastiqa.data.images import archives
from fastiqa.data.images.stored_depth import Refused
from fastiqa.data.report import OnProblem, Problem
from fastiqa.data.triplets.dataset import Triplet
from fastiqa.data.triplets.validation import Report, Row, triplet_report


def read_clic(
    csv: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    average_duplicates: bool = True,
    check_files: bool = True,
    on_problem: OnProblem = "raise",
) -> list[Triplet]:
    """Read the labelled triplets of CLIC, in the order of the file.

    Args:
        csv: a file of rows O,A,B,T, such as oracle.csv; it may lie in an archive, ``oracle.zip/oracle.csv``.
        folder: with the images as files, or as members of archives, which are read in place; by default the folder of
            `csv` or of its archive.
        average_duplicates: make one triplet from equal rows O,A,B, with their mean label; False keeps every row, as
            CLIC's own score counts them.
        check_files: check that the images exist; False trusts every name and opens no archive.
        on_problem: "raise" at the first missing file, bad label or bad row, or "skip" their rows.

    Returns:
        Triplets with group "" and labels 0, 1 or a mean of these.

    Raises:
        FileNotFoundError: no such csv. ValueError: a problem, or no triplets at all; naming file and line.
    """
    report = check_clic(csv, folder, average_duplicates=average_duplicates, check_files=check_files)
    return report.accepted(on_problem)


def check_clic(
    csv: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    average_duplicates: bool = True,
    check_files: bool = True,
) -> Report:
    """Report the contents of CLIC's files. Arguments as for :func:`read_clic`.

    Raises: FileNotFoundError for a missing csv; ValueError for a csv that is no text, and for a damaged archive.
    """
    source = Path(csv)
    try:
        content = source.read_bytes() if source.is_file() else archives.read_member(source)
    except Refused as error:
        raise ValueError(f"{source}: {error}") from None
    if content is None:
        raise FileNotFoundError(f"{source}: no such file")
    in_archive = archives.split_path(source)
    root = Path(folder) if folder is not None else (in_archive[0] if in_archive else source).parent
    locate = _locator(root) if check_files else root.joinpath
    rows: list[Row] = []
    problems: list[Problem] = []
    for index, (number, fields) in enumerate(tables.csv_lines(source, content)):
        where = f"{source}:{number}"
        if index == 0 and len(fields) == 4 and tables.is_header(fields):
            continue
        if len(fields) != 4:
            problems.append(Problem("bad row", where, f"got {len(fields)} columns, want O,A,B,T"))
            continue
        try:
            names = [tables.parse_relative_path(name) for name in fields[:3]]
        except ValueError as error:
            problems.append(Problem("bad row", where, str(error)))
            continue
        try:
            label = tables.parse_probability(fields[3])
        except ValueError as error:
            problems.append(Problem("bad label", where, str(error)))
            continue
        ref, a, b = map(locate, names)
        rows.append(Row(Triplet(ref, a, b, label), where))
    return triplet_report(
        "CLIC", source, rows, problems, average_duplicates=average_duplicates, check_files=check_files
    )


def _locator(root: Path) -> Callable[[PurePosixPath], Path]:
    """A function from a name in the csv to the file below `root`, or to the archive member of this name."""
    inside: dict[str, Path] | None = None
    located: dict[PurePosixPath, Path] = {}

    def locate(name: PurePosixPath) -> Path:
        nonlocal inside
        if name not in located:
            file = root / name
            if not file.is_file():
                inside = _members_below(root) if inside is None else inside
                file = inside.get(str(name), file)
            located[name] = file
        return located[name]

    return locate


def _members_below(root: Path) -> dict[str, Path]:
    """Member name -> path through the archive, for all archives in the folder."""
    found = sorted(path for suffix in archives.SUFFIXES for path in root.glob(f"*{suffix}"))
    return {name: archive / name for archive in found for name in archives.members(archive)}
