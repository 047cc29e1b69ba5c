"""Rows of measurements: their columns, the CSV file they are appended to, and the machine they come from.

op, arguments         operator, and its arguments that are no map of the case's shape ("negative_slope=0.2")
mode                  fwd without gradients | bwd: backward alone, its graph built before | fwd_bwd
memory                reused | fresh: whether large new blocks are recycled or come from the system (memory.py)
dtype, layout, shape  float32 | bfloat16 ..., nchw | nhwc, NxCxHxW
provider              eager | compile | cpu | cuda | triton | torch (fastiqa where none of its kernels runs)
status                ok | wrong (failed the equality check) | failed (raised) | absent (cannot run here): only ok
                      has times, `note` gives the reason of the others
samples               rounds, each interleaved with all other providers'
t_p20_us ... p80      quantiles of the rounds; host_us: a call on a tiny tensor, which is all overhead
launches              kernels launched by a call (CUDA)
bytes_model           least traffic: each input read once, each output written once; the same for every provider
gbps                  bytes_model over the median
copy_gbps             a copy that moves as many bytes; copy_peak_gbps: a copy that fits in no cache; same rounds
pct_copy_peak         gbps in percent of copy_gbps; pct_spec_peak: of the data sheet's bandwidth (CUDA)
peak_mem_mb           most bytes allocated at once by a call, beyond what existed before; in 10^6 bytes
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
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
# What must be equal for a measurement to count as made already.
RUN = ("device", "threads", "torch", "commit")

_log = logging.getLogger("fastiqa")

ROOT = Path(__file__).resolve().parents[2]


def in_checkout() -> bool:
    return (ROOT / "bench" / "data").is_dir() and (ROOT / "fastiqa" / "ops").is_dir()


def machine(row: Row) -> str:
    """Device and, of a CPU, threads."""
    threads = str(row["threads"])
    return f"{row['device']}, {threads} thread{'s' * (threads != '1')}" if threads else str(row["device"])


def default_csv(about: Row) -> Path:
    """bench/data of a checkout, or the current folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine(about).lower()).strip("-")
    return ROOT / "bench" / "data" / f"{slug}.csv" if in_checkout() else Path(f"fastiqa-bench-{slug}.csv")


def append(file: Path, rows: Sequence[Row]) -> None:
    """Adds the rows of one case in a single write, so that an interruption leaves whole cases.

    Raises:
        ValueError: the file's columns are others, or it cannot be written.
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
    """The file exists and can be appended to, or ValueError: better before the first measurement than after it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as error:
        raise ValueError(f"{file}: cannot be written ({error.strerror}); another file is given with --csv") from None
    if file.stat().st_size > 0:
        check_columns(file)
        _remove_cut_case(file)


def _remove_cut_case(file: Path) -> None:
    """Where a killed run or a full disk cut the last row, its case goes, which is then measured again."""
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
    """Every row of a file, values as text; an empty list where there is no file."""
    if not file.exists() or file.stat().st_size == 0:
        return []
    check_columns(file)
    with file.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if None not in row.values()]  # without one that was cut


def case_of(row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in CASE)


def latest(rows: Iterable[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """case -> provider -> row; of a case measured more than once, its last measurement."""
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        providers = cases.setdefault(case_of(row), {})
        if row["provider"] == "eager":  # always a measurement's first row
            providers.clear()
        providers[row["provider"]] = row
    return cases


def measured_already(rows: Iterable[Row], about: Row) -> set[tuple[str, ...]]:
    """The cases that this machine has measured at this commit."""
    return {case_of(row) for row in rows if all(str(row[column]) == str(about[column]) for column in RUN)}


def environment(device: str) -> Row:
    """The columns that are the same in every row of a run."""
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
