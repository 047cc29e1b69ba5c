"""Figures of measurements: speed-ups by operator, and useful bandwidth against size."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastiqa.common.extras import install_command

from ..runner.rows import latest, median_us, ours, read, speedup, spread
from .tables import Case, caption, first

COLOURS = {"eager": "#888888", "compile": "#3b75af", "fastiqa": "#d1495b"}


def draw(files: Mapping[Path, tuple[Path, Path]]) -> int:
    """Draw speed-ups and bandwidths of each CSV file into two PNG files. Exit status: 2 without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print(f"error: figures need matplotlib: {install_command('bench')}", file=sys.stderr)
        return 2
    matplotlib.use("Agg")
    for file, (speedups, bandwidths) in files.items():
        cases = list(latest(read(file)).values())
        for path, figure in ((speedups, _speedups(cases)), (bandwidths, _bandwidths(cases))):
            path.parent.mkdir(parents=True, exist_ok=True)
            # No date or version in the file: the same measurements give the same bytes.
            figure.savefig(path, dpi=110, metadata={"Software": None})
            print(path)
    return 0


def _speedups(cases: Sequence[Case]) -> Any:
    """Bars show the geometric mean over the better of eager and compile, whiskers the worst and best case."""
    from matplotlib.figure import Figure

    cases = [case for case in cases if speedup(case)]  # metrics have other libraries as rivals, not eager
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
    """A panel for each operator, forward in float32 NCHW: useful GB/s by bytes moved, beside a copy's."""
    from matplotlib.figure import Figure

    def plain(case: Case) -> bool:
        row = first(case)
        shown = ("fwd", "float32", "nchw", "reused")
        # Metrics beside other libraries have no model of their bytes.
        return (row["mode"], row["dtype"], row["layout"], row["memory"]) == shown and row["bytes_model"] != ""

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
