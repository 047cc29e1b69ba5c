"""The machine-code tables as Markdown: docs/benchmarks/machine-code.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..report.tables import markdown
from .rows import LAUNCH_COLUMNS, NOT_MEASURED, Row

ARCH = "90"  # of the table of kernels; the CSV has all
DTYPES = ("float32", "bfloat16")
LOW = 50  # percent of the warps
BEYOND = 1.25
# KiB that loads must have in flight on an SM: bandwidth × 0.7 µs / SMs, by the data sheets of A100 (2.0 TB/s, 108 SMs),
# H100 SXM (3.35, 132), B200 (8, 148) and RTX 5090 (1.79, 170).
ENOUGH = {"80": 13, "90": 17, "100": 37, "120": 7}

INTRO = """# Machine code of the kernels

`python -m fastiqa.bench.machine_code` makes this page from the kernels' machine code alone: nvcc {nvcc}, Triton
{triton}. **Nothing here was measured on a GPU, and no column is a time.** The full tables are
`bench/data/machine-code/kernels.csv` and `launches.csv`; `bench/machine_code/rows.py` explains each column. `--check`
(in CI: `tests/build/test_codegen.py`) fails where a number got worse.

A streaming kernel needs bandwidth × latency bytes under way. By data sheets, with a latency of 0.7 µs assumed, that is
13 KiB an SM on an A100, 17 on an H100, 37 on a B200 and 7 on an RTX 5090. So an occupancy below {low} % is no fault by
itself: *in flight* is the number of bytes that the loads of all resident threads request together. With four schedulers
an SM that issue at every clock, there is time for some 10 instructions a byte on an A100, 9 on an H100 and 5 on a B200.
"""


def machine_code_page(kernels: Sequence[Row], launches: Sequence[Row]) -> str:
    versions = {row["backend"]: row["compiler"] for row in kernels}
    ordinary = [row for row in kernels if row["layout"]]
    parts = [
        INTRO.format(nvcc=versions["cuda"], triton=versions["triton"], low=LOW),
        "## Every kernel, by architecture\n\n" + by_architecture(kernels),
        "## Spills\n\nEvery kernel that keeps a thread's bytes in memory. In "
        "Triton's kernels they are a few values that outlive the call of a 64-bit division, once a thread.\n\n"
        + spills(kernels),
        f"## Occupancy below {LOW} %\n\nKernels that ordinary calls run (both memory formats, no odd strides) "
        f"in {' and '.join(DTYPES)}: the instance with least in flight.\n\n" + low_occupancy(ordinary),
        f"## Requested beyond the design\n\nsm_{ARCH}, {' and '.join(DTYPES)}: kernels whose threads request over "
        f"{BEYOND} times the bytes an element that their call moves by design. Caches answer the rest, or tiles "
        "that a map does not fill mask it out.\n\n" + beyond_design(ordinary),
        "## Kernels that ordinary calls run\n\n"
        f"sm_{ARCH}; {' and '.join(DTYPES)}. Bytes and instructions are a thread's in the region named; bytes an "
        "element are given where no loop hides their number.\n\n" + of_kernels(ordinary),
        "## Launches\n\nA call at 2x64x56x56 in float32. By design: bytes for an element of the largest tensor, each "
        "input read once and each output written once.\n\n" + of_launches(launches),
    ]
    return "\n".join(parts)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int) -> str:
    return markdown(header, lines, text_columns) if lines else "None.\n"


def _count(rows: Sequence[Row], holds: Callable[[Row], bool]) -> str:
    return str(sum(map(holds, rows)))


def by_architecture(kernels: Sequence[Row]) -> str:
    lines = []
    for backend, arch in dict.fromkeys((row["backend"], row["arch"]) for row in kernels):
        mine = [row for row in kernels if (row["backend"], row["arch"]) == (backend, arch)]
        lines.append([
            backend, f"sm_{arch}", str(len(mine)), _count(mine, lambda r: r["stack"] != "0" or r["local"] != "0"),
            _count(mine, lambda r: r["narrow"] == "0"), _count(mine, lambda r: r["narrow"] != "0" != r["wide"]),
            _count(mine, lambda r: r["wide"] == "0"), _count(mine, lambda r: int(r["occupancy_pct"] or 100) < LOW),
        ])  # fmt: skip
    accesses = ("128-bit alone", "both", "narrow alone")
    return _table(("backend", "architecture", "kernels", "spill", *accesses, f"occupancy < {LOW} %"), lines, 2)


def spills(kernels: Sequence[Row]) -> str:
    found = [row for row in kernels if row["stack"] != "0" or row["local"] != "0"]
    lines = [[f"`{r['op']}`", f"`{r['kernel']}`", r["backend"], f"sm_{r['arch']}", r["dtype"], r["stack"], r["local"]]
             for r in found]  # fmt: skip
    return _table(("operator", "kernel", "backend", "architecture", "dtype", "stack", "local"), lines, 5)


def low_occupancy(kernels: Sequence[Row]) -> str:
    lowest: dict[tuple[str, ...], Row] = {}
    for row in kernels:
        if row["dtype"] in DTYPES and int(row["occupancy_pct"] or 100) < LOW:
            key = (row["op"], row["kernel"].partition("<")[0], row["backend"], row["arch"])
            lowest[key] = min(lowest.get(key, row), row, key=lambda one: int(one["in_flight_kib"]))
    lines = [
        [f"`{op}`", f"`{kernel}`", backend, f"sm_{arch}", r["dtype"], r["limit"], r["occupancy_pct"], r["registers"],
         str(int(r["static_shared"]) + int(r["dynamic_shared"])), r["in_flight_kib"], str(ENOUGH.get(arch, "–"))]
        for (op, kernel, backend, arch), r in lowest.items()
    ]  # fmt: skip
    header = ("operator", "kernel", "backend", "architecture", "dtype", "limit", "occupancy %", "registers",
              "shared bytes", "in flight KiB", "enough")  # fmt: skip
    return _table(header, lines, 6)


def beyond_design(kernels: Sequence[Row]) -> str:
    lines = []
    for r in kernels:
        if r["arch"] == ARCH and r["dtype"] in DTYPES and r["element_128"]:
            asked = float(r["element_128"]) + float(r["element_narrow"])
            if asked > BEYOND * float(r["element_design"]):
                cells = (r["backend"], r["dtype"], r["layout"], f"{asked:.1f}", r["element_design"])
                lines.append([f"`{r['op']}`", f"`{r['kernel']}`", *cells])
    return _table(("operator", "kernel", "backend", "dtype", "layout", "requested", "by design"), lines, 5)


def of_kernels(kernels: Sequence[Row]) -> str:
    lines = [
        [f"`{r['op']}`", f"`{r['kernel']}`", r["backend"], r["dtype"], r["layout"], r["region"], r["registers"],
         r["occupancy_pct"], r["in_flight_kib"], r["bytes_128"], r["bytes_narrow"], r["element_128"] or "–",
         r["element_narrow"] or "–", r["instructions_per_byte"] or "–", r["gpu_us"], r["why"]]
        for r in kernels
        if r["arch"] == ARCH and r["dtype"] in DTYPES
    ]  # fmt: skip
    header = ("operator", "kernel", "backend", "dtype", "layout", "region", "registers", "occupancy %", "in flight KiB",
              "bytes 128-bit", "bytes narrow", "an element 128-bit", "an element narrow", "instructions a byte",
              "GPU µs", "why narrow")  # fmt: skip
    return _table(header, lines, 6)


def of_launches(launches: Sequence[Row]) -> str:
    layouts: dict[tuple[str, ...], list[str]] = {}
    for r in launches:
        cells = (f"`{r['op']}`", *(r[c] for c in ("arguments", "mode", "backend", *LAUNCH_COLUMNS[5:])))
        layouts.setdefault(cells, []).append(r["layout"])
    lines = [[*cells[:4], " ".join(formats), *cells[4:], NOT_MEASURED] for cells, formats in layouts.items()]
    header = ("operator", "arguments", "call", "backend", "layout", "launches", "bytes by design", "kernels", "GPU µs")
    return _table(header, lines, 6)
