"""Registers, spills, occupancy, access widths and launches of every CUDA and Triton kernel.

    python -m fastiqa.bench.machine_code            writes bench/data/machine-code/*.csv and the page of docs/benchmarks
    python -m fastiqa.bench.machine_code --check    exit 1, naming kernel and column, where something got worse

It needs no GPU and runs nothing on one. It needs Triton and a checkout in which the CUDA library is built;
compile_triton.py and launches.py drive the launchers. Machine code differs between compilers: where a row names another
nvcc or Triton than the installed one, the comparison reports it and checks only two things: that a kernel without
spills still has none, and that a kernel which moves 16 bytes at a time still does. Kernels that only the tables or only
the build has are reported and are no failure: operators are new, and a library may be for fewer architectures
(FASTIQA_CUDA_ARCHS).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..runner.rows import ROOT, in_checkout
from .page import machine_code_page
from .rows import COLUMNS, KEY, LAUNCH_COLUMNS, LAUNCH_KEY, Row, cuda_rows, launch_rows, triton_rows

DATA = ROOT / "bench" / "data" / "machine-code"
KERNELS, LAUNCHES = DATA / "kernels.csv", DATA / "launches.csv"
PAGE = ROOT / "docs" / "benchmarks" / "machine-code.md"
LIBRARY = ROOT / "fastiqa" / "libfastiqa_cuda.so"

HIGHER_IS_WORSE = ("registers", "stack", "local", "narrow")
LOWER_IS_WORSE = ("occupancy_pct",)
ANYWHERE = ("stack", "local", "narrow")  # with any compiler 0 stays 0


def read_table(file: Path) -> list[Row]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _key(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[column] for column in columns)


def worse_kernels(before: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """A line for each number of a kernel that got worse."""
    known, found = {_key(row, KEY): row for row in before}, []
    for row in now:
        old = known.get(key := _key(row, KEY))
        if old is None:
            continue
        if row["compiler"] == old["compiler"]:
            bad = [c for c in HIGHER_IS_WORSE if int(row[c]) > int(old[c])]
            bad += [c for c in LOWER_IS_WORSE if row[c] and float(row[c]) < float(old[c])]
        else:
            bad = [c for c in ANYWHERE if int(row[c]) > 0 == int(old[c])]
        found += [f"{' '.join(filter(None, key))}: {c} {old[c]} -> {row[c]}" for c in bad]
    return found


def worse_launches(before: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """A line for each call that launches more kernels."""
    known = {_key(row, LAUNCH_KEY): row for row in before}
    return [
        f"{' '.join(key)}: launches {known[key]['launches']} -> {row['launches']}"
        for row in now
        if (key := _key(row, LAUNCH_KEY)) in known and int(row["launches"]) > int(known[key]["launches"])
    ]


def remarks(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    """Limits of a comparison: other compilers, kernels that one side lacks."""
    lines = []
    for backend in dict.fromkeys(row["backend"] for row in now):
        old, new = ({_key(r, KEY): r["compiler"] for r in rows if r["backend"] == backend} for rows in (before, now))
        was, installed = ({*versions.values()} for versions in (old, new))
        if was and was != installed:
            lines.append(
                f"{backend}: the table is of {', '.join(was)}, installed is {', '.join(installed)}; checked is only "
                "that no kernel without spills or narrow accesses has them now"
            )
        if missing := len(new.keys() - old.keys()):
            lines.append(f"{backend}: {missing} kernels are not in the table yet")
        if gone := len(old.keys() - new.keys()):
            lines.append(f"{backend}: {gone} kernels of the table are not in this build")
    return lines


# ---- new tables ----


def program(name: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """The lines that a program of this folder prints."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    command = [sys.executable, "-m", f"{__package__}.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=kept)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nfailed with\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def extract() -> tuple[list[Row], list[Row]]:
    """The rows of both tables from the library in the checkout and Triton's compiler; takes minutes."""
    calls = program("launches")
    with tempfile.TemporaryDirectory() as folder:
        triton = triton_rows(program("compile_triton", folder, TRITON_CACHE_DIR=folder))
    rows = [*cuda_rows(LIBRARY, calls), *triton]
    rows.sort(key=lambda row: (row["backend"], int(row["arch"]), _key(row, KEY[2:])))
    return rows, launch_rows(calls)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastiqa.bench.machine_code",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    if not in_checkout() or not LIBRARY.exists():
        print(
            "error: needs a checkout, and the CUDA library in it: FASTIQA_CUDA=1 python setup.py build_ext --inplace",
            file=sys.stderr,
        )
        return 2
    kernels, launches = extract()
    if options.check:
        before = read_table(KERNELS)
        worse = [*worse_kernels(before, kernels), *worse_launches(read_table(LAUNCHES), launches)]
        print("\n".join([*remarks(before, kernels), *(f"worse: {line}" for line in worse)]) or "nothing got worse")
        return int(bool(worse))
    write_table(KERNELS, COLUMNS, kernels)
    write_table(LAUNCHES, LAUNCH_COLUMNS, launches)
    PAGE.write_text(machine_code_page(kernels, launches))
    return 0
