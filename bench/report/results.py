"""The small table of README: what matters of all measurements, losses included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastiqa import ops

from ..runner.rows import Row, latest, machine, median_us, ours, read, speedup, spread
from .tables import PEERS, Case, first, markdown


class Result(NamedTuple):
    """A line of the table: the operation and its rivals in words, and the cases that count."""

    words: str
    rivals: str
    counts: Callable[[Row], bool]


def _of(op: str, *modes: str) -> Callable[[Row], bool]:
    return lambda row: row["op"] == op and row["mode"] in modes


TORCH, PLAIN, LIBRARIES = "eager, torch.compile", "plain network", "fastest other library"
RESULTS = (
    Result("operators, forward", TORCH, lambda row: row["op"] in ops.OPERATORS and row["mode"] == "fwd"),
    Result("operators, with gradients", TORCH, lambda row: row["op"] in ops.OPERATORS and row["mode"] != "fwd"),
    Result("PRFNet, inference", TORCH, _of("prfnet", "fwd")),
    Result("MFENet, inference", TORCH, _of("mfenet", "fwd")),
    Result("octave modules", "plain convolutions", _of("octave_parts", "fwd", "fwd_bwd")),
    Result("PRFNet, training step", PLAIN, _of("prfnet_step", "fwd_bwd")),
    Result("MFENet, training step", PLAIN, _of("mfenet_step", "fwd_bwd")),
    Result("SSIM, 1080p", LIBRARIES, _of("ssim_peers", "fwd")),
    Result("SSIM as a loss, 1080p", LIBRARIES, _of("ssim_peers", "fwd_bwd")),
    Result("MS-SSIM as a loss, 1080p", LIBRARIES, _of("ms_ssim_peers", "fwd_bwd")),
    Result("PSNR, 1080p", LIBRARIES, _of("psnr_peers", "fwd")),
    Result("LPIPS as a loss", LIBRARIES, _of("lpips_peers", "fwd_bwd")),
)


def rival(case: Case) -> Row | None:
    """The fastest other library, or eager PyTorch."""
    if first(case)["op"] not in PEERS:
        return case.get("eager")
    timed = [row for name, row in case.items() if name != "fastiqa" and median_us(row)]
    return min(timed, key=lambda row: median_us(row) or math.inf) if timed else None


def ratios(case: Case) -> tuple[float | None, float | None]:
    """The speed-up, and the share of the rival's memory that fastiqa needs; None where either was not measured."""
    other = rival(case)
    if first(case)["op"] in PEERS:
        mine, column = case["fastiqa"], "peak_mem_mb"
        theirs, own = median_us(other), median_us(mine)
        speed = theirs / own if theirs and own else None
    else:
        mine, column = ours(case) or {}, "saved_mb"
        speed = speedup(case)
        if not first(case)["op"].endswith("_step"):
            return speed, None
    if other is None or not other.get(column) or not mine.get(column):
        return speed, None
    return speed, float(mine[column]) / float(other[column])


def results_table(files: Sequence[Path]) -> str:
    """One line for each of `RESULTS`, with a column of speed-ups for each machine."""
    machines = {machine(rows[0]).replace("(R)", ""): rows for file in files if (rows := read(file))}
    cases = {name: list(latest(rows).values()) for name, rows in machines.items()}
    lines = []
    for result in RESULTS:
        line, memory = [], []
        for measured in cases.values():
            found = [ratios(case) for case in measured if result.counts(first(case))]
            speeds = spread(speed for speed, _ in found if speed is not None)
            line.append("{} ({} – {})".format(*map(_digits, speeds[1:])) if speeds else "–")
            memory += [share for _, share in found if share is not None]
        lines.append([result.words, result.rivals, *line, _percent(memory)])
    return markdown(("", "beside", *cases, "memory"), lines, 2)


def _digits(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}"


def _percent(shares: Sequence[float]) -> str:
    if not shares:
        return "–"
    low, high = (f"{100 * share:.0f}" if share >= 0.01 else "< 1" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} – {high} %"
