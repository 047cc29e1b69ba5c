"""How a comparison is printed: as a table for people, or as one JSON object.

JSON keys, which stay as they are:
    paths       {"ref", "a", "b"}: the files as they were given
    size        {"width", "height"} in pixels
    metrics     {"psnr", "ssim", "ms_ssim"} and, where its weights were given, "lpips" (lower is better): each
                {"a", "b", "prefers"}: a number, the string "inf" (PSNR of equal images: JSON has no infinity) or null
                (n/a, see notes); "a", "b", "tie" or null
    prfnet      null without weights, else {"probability_b_closer", "prefers", "weights"}
    notes       sentences on what was not computed and why
    failure     null, or what ended the comparison before all was computed: the exit status is 2
"""

from __future__ import annotations

import json
import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastiqa.common.text import one_line
from fastiqa.evaluation.comparison import Comparison

TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS (lower)"}
DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "lpips": 4}
NARROWEST = 80  # columns: what the table needs, whatever COLUMNS says


def as_json_text(comparison: Comparison) -> str:
    """The comparison as an indented JSON object, with the keys of this module's documentation."""
    verdict = comparison.prfnet
    content = {
        "paths": comparison.paths,
        "size": {"width": comparison.width, "height": comparison.height},
        "metrics": {
            name: {"a": _number(scores.a), "b": _number(scores.b), "prefers": scores.prefers}
            for name, scores in comparison.metrics.items()
        },
        "prfnet": verdict
        and {
            "probability_b_closer": verdict.probability_b_closer,
            "prefers": verdict.prefers,
            "weights": verdict.weights,
        },
        "notes": list(comparison.notes),
        "failure": comparison.failure,
    }
    return json.dumps(content, indent=2, allow_nan=False)


def print_table(comparison: Comparison) -> None:
    """Print the comparison to stdout: files, a table of the metrics, PRFNet's verdict, notes."""
    console = Console(highlight=False)
    if console.width < NARROWEST:
        console = Console(highlight=False, width=NARROWEST)
    for name, path in comparison.paths.items():
        console.print(Text(f"{name.upper():<4} {one_line(path)}"), soft_wrap=True)
    console.print(Text(f"{'size':<4} {comparison.width}x{comparison.height} pixels"))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for title in ("A", "B", "prefers"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, scores in comparison.metrics.items():
        values = [_text(value, DIGITS[name]) for value in (scores.a, scores.b)]
        table.add_row(TITLES[name], *values, _preference(scores.prefers))
    console.print(table)
    if comparison.prfnet is not None:
        probability = f"{comparison.prfnet.probability_b_closer:.4f}"
        console.print(Text(f"PRFNet: B is closer with probability {probability}, prefers "), end="")
        console.print(Text(_preference(comparison.prfnet.prefers)))
    for note in comparison.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def _number(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value


def _text(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _preference(prefers: str | None) -> str:
    return "n/a" if prefers is None else prefers.upper() if prefers in ("a", "b") else prefers
