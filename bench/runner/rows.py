"""Rows of measurements: their columns, their CSV file, the machine they come from, and the speed-ups they show.

op, arguments         operator, and the arguments other than maps of the case's shape ("negative_slope=0.2")
mode                  fwd without gradients | bwd: backward alone, its graph built before | fwd_bwd
memory                reused | fresh: whether large new blocks are recycled or come from the system (memory.py)
dtype, layout, shape  float32 | bfloat16 ..., nchw | nhwc, NxCxHxW
provider              eager | compile | cpu | cuda | triton | torch (fastiqa where none of its kernels runs)
status                ok | wrong (failed the equality check) | failed (raised) | absent (cannot run here): only ok
                      has times; for the others `note` gives the reason
samples               rounds, each interleaved with all other providers'
t_p20_us ... p80      quantiles of the rounds; host_us: a call on a tiny tensor, which is all overhead
launches              kernels that a call launches (CUDA)
bytes_model           least traffic: each input read once, each output written once; the same for every provider
gbps                  bytes_model over the median
copy_gbps             a copy that moves as many bytes; copy_peak_gbps: a copy that fits in no cache; same rounds
pct_copy_peak         gbps in percent of copy_gbps; pct_spec_peak: of the data sheet's bandwidth (CUDA)
peak_mem_mb           most bytes that a call allocates at once, beyond those that existed before; in 10^6 bytes
saved_mb              storages that the forward pass keeps for the backward pass, arguments among them
err_vs_fp64           largest error of results and gradients; err_ratio_to_eager: over eager's own
first_call_ms         the first call, which compiles or loads
device ... date       the machine, versions and commit; cache_state: warm | cold (L2 overwritten before each call)
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import logging
import math
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastiqa.common.files import write_atomically

Row = dict[str, Any]

CASE = ("op", "arguments", "mode", "memory", "dtype", "layout", "shape")
COLUMNS = (
    *CASE,
    "provider",
    "status",
    "samples",
    "t_p20_us",
    "t_p50_us",
    "t_p80_us",
    "host_us",
    "launches",
    "bytes_model",
    "gbps",
    "copy_gbps",
    "copy_peak_gbps",
    "pct_copy_peak",
    "pct_spec_peak",
    "peak_mem_mb",
    "saved_mb",
    "err_vs_fp64",
    "err_ratio_to_eager",
    "first_call_ms",
    "device",
    "threads",
    "sm_clock",
    "mem_clock",
    "driver",
    "torch",
    "triton",
    "cuda",
    "commit",
    "date",
    "cache_state",
    "note",
)
RIVALS = ("eager", "compile")
FASTIQA = ("cuda", "triton", "cpu", "torch")
# A case counts as measured already where these are equal.
RUN = ("device", "threads", "torch", "commit")

_log = logging.getLogger("fastiqa")

ROOT = Path(__file__).resolve().parents[2]


def in_checkout() -> bool:
    return (ROOT / "bench" / "data").is_dir() and (ROOT / "fastiqa" / "ops").is_dir()


def machine(row: Row) -> str:
    """The device and, for a CPU, its threads."""
    threads = str(row["threads"])
    return f"{row['device']}, {threads} thread{'s' * (threads != '1')}" if threads else str(row["device"])


def default_csv(about: Row) -> Path:
    """The machine's file in bench/data of a checkout, else in the current folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine(about).lower()).strip("-")
    return ROOT / "bench" / "data" / f"{slug}.csv" if in_checkout() else Path(f"fastiqa-bench-{slug}.csv")


def append(file: Path, rows: Sequence[Row]) -> None:
    """Add the rows of one case in a single write, so that an interruption leaves whole cases.

    Raises:
        ValueError: the file has other columns, or cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    make_ready(file)
    if file.stat().st_size == 0:
        writer.writeheader()
    writer.writerows(rows)
    with file.open("a", newline="") as stream:
        stream.write(text.getvalue())


def make_ready(file: Path) -> None:
    """Create the file if needed, and check before the first measurement that rows can be appended.

    Raises:
        ValueError: the file has other columns, or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise ValueError(f"{file}: cannot be written ({error.strerror}); another file is given with --csv") from None
    if file.stat().st_size > 0:
        check_columns(file)
        _remove_cut_case(file)


def _remove_cut_case(file: Path) -> None:
    """Remove the last case where a killed run or a full disk cut its last row: it is then measured again."""
    with file.open(newline="") as stream:
        text = stream.read()
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines)
    begins, rows = [0], []
    for row in reader:
        rows.append(row)
        begins.append(reader.line_num)
    in_quotes = text.count('"') % 2 == 1
    if len(rows[-1]) == len(COLUMNS) and text.endswith("\n") and not in_quotes:
        return
    if len(rows) == 1:
        write_atomically(file, f"{text}\n".encode())
        return
    cut, *before = rows[:0:-1]
    case = cut[: len(CASE)]
    if len(cut) <= len(CASE) and before:  # its last column may be cut, too
        case = before[0][: len(CASE)]
    removed = 1 + sum(1 for _ in itertools.takewhile(lambda row: row[: len(CASE)] == case, before))
    write_atomically(file, "".join(lines[: begins[len(rows) - removed]]).encode())
    _log.warning("%s: the last row was cut; its case, %d rows, is removed to be measured again", file, removed)


def check_columns(file: Path) -> None:
    with file.open(newline="") as stream:
        columns = next(csv.reader(stream), [])
    if tuple(columns) != COLUMNS:
        raise ValueError(f"{file}: its columns are not this version's; move it, or give another with --csv")


def read(file: Path) -> list[Row]:
    """Every row of a file, values as text; none where there is no file."""
    if not file.exists() or file.stat().st_size == 0:
        return []
    check_columns(file)
    with file.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if None not in row.values()]  # without one that was cut


def case_of(row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in CASE)


def latest(rows: Iterable[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """case -> provider -> row; a case measured more than once has its last measurement."""
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        providers = cases.setdefault(case_of(row), {})
        if row["provider"] == "eager":  # the first row of every measurement
            providers.clear()
        providers[row["provider"]] = row
    return cases


def measured_already(rows: Iterable[Row], about: Row) -> set[tuple[str, ...]]:
    """The cases that this machine has measured at this commit and with these versions."""
    return {case_of(row) for row in rows if all(str(row[column]) == str(about[column]) for column in RUN)}


# ---- the machine ----


def environment(device: str) -> Row:
    """The columns that are equal in every row of a run."""
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = ""
    about = dict.fromkeys(("sm_clock", "mem_clock", "driver", "cuda"), "") | {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": triton_version,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "cache_state": "warm",
    }
    if device == "cuda":
        clocks = _text("nvidia-smi", f"-i{torch.cuda.current_device()}", "--format=csv,noheader,nounits",
                       "--query-gpu=clocks.sm,clocks.mem,driver_version").split(", ")  # fmt: skip
        if len(clocks) == 3:
            about |= dict(zip(("sm_clock", "mem_clock", "driver"), clocks, strict=True))
        about |= {"device": torch.cuda.get_device_name(), "threads": "", "cuda": torch.version.cuda or ""}
        about["cache_state"] = "cold"
    return about


def commit() -> str:
    """The checkout's commit, with "+" where tracked files differ from it; the version where there is no checkout."""
    found = _text("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") if in_checkout() else ""
    if not found:
        from fastiqa import __version__

        return f"v{__version__}"
    changed = _text("git", "-C", str(ROOT), "status", "--porcelain", "-uno", "--", "fastiqa", "kernels", "csrc")
    return found + ("+" if changed else "")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _text(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# ---- speed-ups ----


def median_us(row: Row | None) -> float | None:
    """The median in microseconds, None for a provider without one."""
    return float(row["t_p50_us"]) if row is not None and row.get("t_p50_us") not in (None, "") else None


def ours(case: Mapping[str, Row]) -> Row | None:
    """fastiqa's row: that of a backend that is wrong or failed, else of the fastest, else of the first."""
    rows = [case[name] for name in FASTIQA if name in case]
    timed = [row for row in rows if median_us(row) is not None]
    if any(row["status"] in ("wrong", "failed") for row in rows):
        return next(row for row in rows if row["status"] in ("wrong", "failed"))
    return min(timed, key=lambda row: median_us(row) or 0) if timed else rows[0] if rows else None


def speedup(case: Mapping[str, Row]) -> float | None:
    """fastiqa's speed-up over the better of eager and compile; None where one side has no time."""
    mine = median_us(ours(case))
    rivals = [t for name in RIVALS if (t := median_us(case.get(name))) is not None]
    return min(rivals) / mine if mine and rivals else None


class Spread(NamedTuple):
    """Some speed-ups: their number, geometric mean, worst and best."""

    cases: int
    mean: float
    worst: float
    best: float


def spread(ratios: Iterable[float]) -> Spread | None:
    values = list(ratios)
    if not values:
        return None
    return Spread(len(values), math.exp(sum(map(math.log, values)) / len(values)), min(values), max(values))


def bad(row: Row) -> bool:
    """Whether a kernel of fastiqa fails the equality check, or raises."""
    return row["provider"] in FASTIQA and row["status"] in ("wrong", "failed")
