"""Figures of bench/figures from CSV files: speed-ups by operator, and useful bandwidth against size."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..runner.rows import ROOT, latest, read
from ..runner.summary import median_us, ours, speedup, spread
from .command import Case, caption, first

COLOURS = {"eager": "#888888", "compile": "#3b75af", "fastiqa": "#d1495b"}


def draw(files: Iterable[Path], folder: Path | None = None) -> int:
    """Exit status; PNG files named as each CSV file, in bench/figures for those of bench/data, else beside it."""
    try:
        import matplotlib
    except ImportError:
        print("error: figures need matplotlib: pip install 'fastiqa[bench]'", file=sys.stderr)
        return 2
    matplotlib.use("Agg")
    for file in files:
        cases = list(latest(read(file)).values())
        beside = file.resolve().parent
        where = folder or (beside.parent / "figures" if beside == ROOT / "bench" / "data" else beside)
        where.mkdir(parents=True, exist_ok=True)
        for name, figure in (("speedup", _speedups(cases)), ("bandwidth", _bandwidths(cases))):
            # No date or version in the file: the same measurements give the same bytes.
            figure.savefig(where / f"{file.stem}-{name}.png", dpi=110, metadata={"Software": None})
            print(where / f"{file.stem}-{name}.png")
    return 0


def _speedups(cases: Sequence[Case]) -> Any:
    """Bars: geometric mean over the better of eager and compile; whiskers: worst and best case."""
    from matplotlib.figure import Figure

    cases = [case for case in cases if speedup(case)]  # not metrics, which have no eager rival but peers
    ops = list(dict.fromkeys(first(case)["op"] for case in cases))
    modes = list(dict.fromkeys(first(case)["mode"] for case in cases))
    figure = Figure(figsize=(9, 1.6 + 0.28 * len(ops) * len(modes)), layout="constrained")
    axes = figure.add_subplot()
    named: set[str] = set()
    for k, mode in enumerate(modes):
        for row, op in enumerate(ops):
            mine = [case for case in cases if (first(case)["op"], first(case)["mode"]) == (op, mode)]
            found = spread(ratio for case in mine if (ratio := speedup(case)) is not None)
            if found:
                whiskers = [[found.mean - found.worst], [found.best - found.mean]]
                y = row + (k - (len(modes) - 1) / 2) * 0.8 / len(modes)
                axes.barh(y, found.mean - 1, 0.75 / len(modes), left=1, xerr=whiskers, color=f"C{k}", capsize=2,
                          ecolor="#444444", label=None if mode in named else mode)  # fmt: skip
                named.add(mode)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    _powers_of_two(axes, "{x:g}×")
    axes.set_yticks(range(len(ops)), ops)
    axes.invert_yaxis()
    axes.set_xlabel("speed-up over the better of eager and torch.compile: mean, worst and best case")
    figure.legend(title="direction", loc="outside right upper")
    axes.set_title(_wrapped(cases, 90), fontsize=8)
    return figure


def _wrapped(cases: Sequence[Case], width: int) -> str:
    return textwrap.fill(caption(cases), width) if cases else "no measurement"


def _powers_of_two(axes: Any, form: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter(form))


def _bandwidths(cases: Sequence[Case]) -> Any:
    """A panel an operator: forward in float32 NCHW, useful GB/s against the bytes moved, beside the copy's."""
    from matplotlib.figure import Figure

    def plain(case: Case) -> bool:
        row = first(case)
        wanted = ("fwd", "float32", "nchw", "reused")  # of what has a model of its bytes: no metric beside its peers
        return (row["mode"], row["dtype"], row["layout"], row["memory"]) == wanted and row["bytes_model"] != ""

    chosen = [case for case in cases if plain(case)]
    ops = list(dict.fromkeys(first(case)["op"] for case in chosen)) or [""]
    columns = min(4, len(ops))
    lines = math.ceil(len(ops) / columns)
    figure = Figure(figsize=(max(9, 1 + 3.2 * columns), 0.7 + 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, op in zip(panels.flat, [*ops, *[""] * (lines * columns - len(ops))], strict=True):
        mine = sorted((case for case in chosen if first(case)["op"] == op), key=lambda c: int(first(c)["bytes_model"]))
        for name, colour in COLOURS.items():
            rows = [ours(case) if name == "fastiqa" else case.get(name) for case in mine]
            points = [(int(r["bytes_model"]) / 1e6, float(r["gbps"])) for r in rows if r is not None and median_us(r)]
            axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=colour, label=name, markersize=4)
        copies = [(int(r["bytes_model"]) / 1e6, float(r["copy_gbps"])) for c in mine if median_us(r := first(c))]
        axes.plot(*zip(*copies, strict=True) if copies else ([], []), "k--", label="copy of as many bytes", linewidth=1)
        axes.set_xscale("log")
        _powers_of_two(axes, "{x:g}")
        axes.set_title(op, fontsize=9)
        axes.set_axis_on() if op else axes.set_axis_off()
        axes.set_ylim(bottom=0)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.supxlabel("bytes that an ideal kernel moves, MB", fontsize=9)
    figure.supylabel("useful GB/s", fontsize=9)
    figure.suptitle(f"forward, float32, NCHW; {_wrapped(cases, 130)}", fontsize=8)
    return figure
