"""What the compilers made of every CUDA and Triton kernel: registers, spills, occupancy, access widths, launches.

    python -m fastiqa.bench.machine_code            writes bench/data/machine-code.md and the CSV files beside it
    python -m fastiqa.bench.machine_code --check    exit 1, naming kernel and column, where something got worse

Nothing runs on a GPU and none is needed, but a checkout is, with the CUDA library built in it, and Triton:
compile_triton.py and launches.py in tests/support drive the launchers. Machine code differs from compiler to compiler:
where the installed nvcc or Triton is not the one that a row names, the comparison says so and keeps to what must hold
anyway, that no kernel spills that did not and none that moved 16 bytes alone moves less. Kernels that the tables or the
build lack are told and are no failure: new operators, and libraries for fewer architectures (FASTIQA_CUDA_ARCHS).
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
from .page import page
from .rows import COLUMNS, KEY, LAUNCH_COLUMNS, LAUNCH_KEY, Row, cuda_rows, launch_rows, triton_rows

DATA = ROOT / "bench" / "data" / "machine-code"
KERNELS, LAUNCHES = DATA / "kernels.csv", DATA / "launches.csv"
LIBRARY = ROOT / "fastiqa" / "libfastiqa_cuda.so"

HIGHER_IS_WORSE = ("registers", "stack", "local", "narrow")
LOWER_IS_WORSE = ("occupancy_pct",)
ANYWHERE = ("stack", "local", "narrow")  # with any compiler: what was none stays none


def read(file: Path) -> list[Row]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _key(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[column] for column in columns)


def worse_kernels(before: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """A line for each number that got worse."""
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
    known = {_key(row, LAUNCH_KEY): row for row in before}
    return [
        f"{' '.join(key)}: launches {known[key]['launches']} -> {row['launches']}"
        for row in now
        if (key := _key(row, LAUNCH_KEY)) in known and int(row["launches"]) > int(known[key]["launches"])
    ]


def remarks(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    """What limits a comparison: other compilers, kernels that one side lacks."""
    lines = []
    for backend in dict.fromkeys(row["backend"] for row in now):
        old, new = ({_key(r, KEY): r["compiler"] for r in rows if r["backend"] == backend} for rows in (before, now))
        was, installed = ({*versions.values()} for versions in (old, new))
        if was and was != installed:
            lines.append(
                f"{backend}: the table is of {', '.join(was)}, installed is {', '.join(installed)}; compared is only "
                "that no kernel spills, or has narrow accesses, that had none"
            )
        if missing := len(new.keys() - old.keys()):
            lines.append(f"{backend}: {missing} kernels are not in the table yet")
        if gone := len(old.keys() - new.keys()):
            lines.append(f"{backend}: {gone} kernels of the table are not in this build")
    return lines


# ---- everything anew ----


def program(name: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """The lines that a program of tests/ prints."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    command = [sys.executable, str(ROOT / "tests" / "support" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=kept)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nfailed with\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def extract() -> tuple[list[Row], list[Row]]:
    """The rows of both tables, from the library in the checkout and from Triton's compiler; takes minutes."""
    calls = program("launches.py")
    with tempfile.TemporaryDirectory() as folder:
        triton = triton_rows(program("compile_triton.py", folder, TRITON_CACHE_DIR=folder))
    rows = [row for row in (*cuda_rows(LIBRARY, calls), *triton) if row["op"] != "template_op"]
    rows.sort(key=lambda row: (row["backend"], int(row["arch"]), _key(row, KEY[2:])))
    return rows, launch_rows(calls)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        before = read(KERNELS)
        worse = [*worse_kernels(before, kernels), *worse_launches(read(LAUNCHES), launches)]
        print("\n".join([*remarks(before, kernels), *(f"worse: {line}" for line in worse)]) or "nothing got worse")
        return int(bool(worse))
    write(KERNELS, COLUMNS, kernels)
    write(LAUNCHES, LAUNCH_COLUMNS, launches)
    DATA.with_suffix(".md").write_text(page(kernels, launches))
    return 0
