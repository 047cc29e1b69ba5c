"""Results in print and in files: tables for people, JSON, CSV, progress bars.

Keys of JSON, which stay as they are. ``fastiqa compare``:
    paths       {"ref", "a", "b"}: the files as they were given
    size        {"width", "height"} in pixels
    reading     {"strict", "background", "colour"}: the options; background is null where none was given
    decisions   {"ref", "a", "b"}: what was decided in reading each file, a list, such as ["grey", "alpha on white"]
    channels    1 where all three are grey and the metrics take one channel, else 3
    backgrounds what alpha was composited on: none, one, or white and black; then each metric is the worse of two values
                and the probability the mean of two
    metrics     {"psnr", "ssim", "ms_ssim"} and, where its weights were given, "lpips" (lower is better): each
                {"a", "b", "prefers"}: a number, the string "inf" (PSNR of equal images: JSON has no infinity) or null
                (n/a, see notes); "a", "b", "tie" or null
    prfnet      null where it was not run, else {"probability_b_closer", "prefers", "weights", "model", "tag", "sha256",
                "accuracy"}: weights is the file as it was given, or MODEL.TAG of published ones; sha256 is the file's;
                tag and accuracy, how far to trust them, are null for a file
    notes       sentences on what was not computed and why
    failure     null, or what ended the comparison before all was computed: the exit status is 2
``fastiqa score``:
    model       the network's name, weights: its file, as they were given, or MODEL.TAG of published ones
    tag, accuracy   of published weights, and how far to trust them; null for a file
    sha256      of the file
    crops       null for whole images, else {"number", "size", "seed"}
    reading     {"strict", "background", "colour"}: the options; without a background alpha is shown on white
    scores      [{"image", "score", "decisions"}], in the order of the arguments; a folder's files sorted by name; bad
                ones left out; decisions as of compare
    failed      [{"image", "reason"}], the bad ones
``fastiqa eval`` of triplets, a list with an object a predictor:
    predictor, triplets, score, low, high, swap_consistency, groups, differences: as of
                `fastiqa.evaluation.triplets.Evaluation`
``fastiqa eval`` of rated images, a list with an object a run and, of several runs, one of their median:
    method, trained_on, dataset, split      as of `fastiqa.evaluation.rated.RatedEvaluation`
    overall                                 {"images", "plcc", "srcc", "krcc", "plcc_fitted", "rmse_fitted"}
    groups                                  {type of distortion: the same}; undefined measures are null
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fastiqa.common.text import csv_cell, one_line, stdout_is_utf8
from fastiqa.evaluation.tables import markdown_table, markdown_table_by_group

if TYPE_CHECKING:
    from fastiqa.evaluation.comparison import Comparison
    from fastiqa.evaluation.rated import Correlations, RatedEvaluation
    from fastiqa.evaluation.triplets import Evaluation
    from fastiqa.models import Card


@contextlib.contextmanager
def progress_bars(console: Console | None = None) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show progress bars while the block runs, on a terminal alone.

    Args:
        console: where they are shown; stderr by default. Lines printed to it appear above the bars.

    Yields:
        A function that starts a bar with a description. It returns a function (done, total) that moves the bar.
    """
    console = console or Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def start(description: str) -> Callable[[int, int], None]:
            task = progress.add_task(escape(one_line(description)), total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield start


# ---- compare ----

TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS (lower)"}
DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "lpips": 4}
NARROWEST = 80  # columns that the table needs, whatever COLUMNS says
CARDS_WIDTH = 100  # likewise that of published weights


def comparison_json(comparison: Comparison) -> str:
    """Return the comparison as an indented JSON object, with the keys above."""
    verdict = comparison.prfnet
    content = {
        "paths": comparison.paths,
        "size": {"width": comparison.width, "height": comparison.height},
        "reading": comparison.policy.as_dict(),
        "decisions": {name: list(comparison.decisions.get(name, ())) for name in comparison.paths},
        "channels": comparison.channels,
        "backgrounds": list(comparison.backgrounds),
        "metrics": {
            name: {"a": _number(scores.a), "b": _number(scores.b), "prefers": scores.prefers}
            for name, scores in comparison.metrics.items()
        },
        "prfnet": verdict
        and {
            "probability_b_closer": verdict.probability_b_closer,
            "prefers": verdict.prefers,
            "weights": verdict.weights,
            "model": verdict.model,
            "tag": verdict.card and verdict.card.tag,
            "sha256": verdict.sha256,
            "accuracy": verdict.card and verdict.card.accuracy,
        },
        "notes": list(comparison.notes),
        "failure": comparison.failure,
    }
    return json.dumps(content, indent=2, allow_nan=False)


def print_comparison(comparison: Comparison) -> None:
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
    if (verdict := comparison.prfnet) is not None:
        title = "PRFNet" if verdict.card is None else verdict.model
        console.print(
            Text(f"{title}: B is closer with probability {verdict.probability_b_closer:.4f}, prefers "), end=""
        )
        console.print(Text(_preference(verdict.prefers)))
        if verdict.card is not None:
            console.print(Text(verdict.card.line), soft_wrap=True)
    for note in comparison.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def print_decisions(decisions: Mapping[str, Sequence[str]]) -> None:
    """Print a line on stderr for each file about which something was decided."""
    for path, notes in decisions.items():
        if notes:
            print(f"note: {one_line(path)}: {'; '.join(notes)}", file=sys.stderr)


def _number(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value


def _text(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def _preference(prefers: str | None) -> str:
    return "n/a" if prefers is None else prefers.upper() if prefers in ("a", "b") else prefers


# ---- models ----


def print_cards(cards: Sequence[Card]) -> None:
    """Print a table to stdout, a row for each of the published weights, and below it what takes whole sentences."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("name", "default of", "parameters", "file", "licence"):
        table.add_column(title, justify="right" if title in ("parameters", "file") else "left", no_wrap=True)
    for card in cards:
        sizes = f"{card.parameters / 1e6:.2f} M", f"{card.size / 1e6:.2f} MB"
        table.add_row(Text(card.name), ", ".join(card.default_of), *sizes, Text(one_line(card.licence)))
    console = Console(highlight=False)
    Console(highlight=False, width=max(CARDS_WIDTH, console.width)).print(table)
    for card in cards:
        print(f"  {card.name}")
        for title, text in (("task", card.task), ("trained on", card.data), ("accuracy", card.accuracy)):
            print(f"    {title:<11} {one_line(text)}")
        if missing := card.missing():
            print(f"    not here    {one_line(missing)}")
        print()


def print_card(card: Card) -> None:
    """Print all facts of one network to stdout, a line each."""
    facts = card.as_dict()
    scores = facts.pop("scores")
    for name, value in {**facts, **{f"score, {name}": value for name, value in scores.items()}}.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "-" if value in (None, "") else value
        print(f"{name:<11} {one_line(str(shown))}")


# ---- score ----


class ScoreRows:
    """Prints scores one by one, and nothing before the first.

    Attributes:
        names_decisions: whether decisions go to stderr, for the rows do not have them.
    """

    names_decisions = True

    def add(self, image: Path, score: float, decisions: Sequence[str] = ()) -> None:
        """Print a row."""
        raise NotImplementedError

    def fail(self, image: Path, reason: str) -> None:
        """Note an image that has no score."""

    def close(self) -> None:
        """End the output."""


class CsvScores(ScoreRows):
    def __init__(self) -> None:
        self._writer: Any = None

    def add(self, image: Path, score: float, decisions: Sequence[str] = ()) -> None:
        if self._writer is None:
            self._writer = csv.writer(sys.stdout, lineterminator="\n")
            self._writer.writerow(("image", "score"))
        self._writer.writerow((csv_cell(str(image), ascii_only=not stdout_is_utf8()), f"{score:.6g}"))
        sys.stdout.flush()


class JsonScores(ScoreRows):
    """Prints one object; its list of scores grows as they come."""

    names_decisions = False

    def __init__(self, about: dict[str, Any]) -> None:
        self._about, self._started = about, False
        self._failed: list[dict[str, str]] = []

    def add(self, image: Path, score: float, decisions: Sequence[str] = ()) -> None:
        if self._started:
            print(",")
        else:
            head = json.dumps({**self._about, "scores": []}, indent=2)
            print(head.removesuffix("]\n}"))
        row = json.dumps({"image": str(image), "score": score, "decisions": list(decisions)}, allow_nan=False)
        print(f"    {row}", end="", flush=True)
        self._started = True

    def fail(self, image: Path, reason: str) -> None:
        self._failed.append({"image": str(image), "reason": reason})

    def close(self) -> None:
        if self._started:
            failed = json.dumps({"failed": self._failed}, indent=2).removeprefix("{\n")
            print(f"\n  ],\n{failed}")


class ScoreTable(ScoreRows):
    """Prints columns for people, as wide as the longest name."""

    def __init__(self, files: list[Path]) -> None:
        self._width, self._started = max(len("image"), *(cell_len(one_line(str(file))) for file in files)), False

    def add(self, image: Path, score: float, decisions: Sequence[str] = ()) -> None:
        if not self._started:
            print(f"\n  {'image':<{self._width}}   {'quality':>8}\n {'─' * (self._width + 13)}")
            self._started = True
        name = one_line(str(image))
        print(f"  {name}{' ' * (self._width - cell_len(name))}   {score:>8.4f}", flush=True)

    def close(self) -> None:
        if self._started:
            print()


# ---- eval ----


def preferences_json(results: Sequence[Evaluation]) -> str:
    """Return the evaluations of predictors on triplets as a JSON list."""
    return json.dumps([_preferences_dict(result) for result in results], indent=2)


def _preferences_dict(result: Evaluation) -> dict[str, Any]:
    return {
        "predictor": result.name,
        **result.overall._asdict(),
        "swap_consistency": result.swap_consistency,
        "groups": {group: score._asdict() for group, score in result.groups.items()},
        "differences": {
            group: {name: difference._asdict() for name, difference in others.items()}
            for group, others in result.differences.items()
        },
    }


def print_preferences(results: list[Evaluation]) -> None:
    """Print a table: a column a predictor, a row a group, then all triplets with the 95 % interval."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("2AFC score", no_wrap=True)
    table.add_column("triplets", justify="right")
    for result in results:
        table.add_column(Text(one_line(result.name)), justify="right", no_wrap=True)
    first = results[0]
    for group in first.groups:
        scores = [result.groups[group] for result in results]
        table.add_row(Text(one_line(group)), str(scores[0].triplets), *(f"{score.score:.4f}" for score in scores))
    if first.groups:
        table.add_section()
    table.add_row("all", str(first.overall.triplets), *(f"{result.overall.score:.4f}" for result in results))
    intervals = (f"{result.overall.low:.3f}–{result.overall.high:.3f}" for result in results)
    table.add_row("95 % interval", "", *intervals)
    if any(result.swap_consistency is not None for result in results):
        shares = ("" if r.swap_consistency is None else f"{r.swap_consistency:.4f}" for r in results)
        table.add_row("consistent when swapped", "", *shares)
    for name, others in results[-1].differences.items():
        if others:
            table.add_section()
            said = [others.get(result.name) for result in results[:-1]]
            table.add_row(
                Text(f"ahead, {one_line(name or 'all')}"), "", *(f"{d.score:+.4f}" if d else "" for d in said)
            )
            table.add_row("95 % interval", "", *(f"{d.low:+.3f}–{d.high:+.3f}" if d else "" for d in said))
            table.add_row("share of draws", "", *(f"{d.ahead:.3f}" if d else "" for d in said))
    needed = 40 + sum(max(len(result.name), len("+0.000–+0.000")) + 3 for result in results)
    console = Console(highlight=False)
    if console.width < needed:  # whatever COLUMNS says: a narrower table would cut numbers
        console = Console(highlight=False, width=needed)
    console.print(table)


def rated_json(evaluations: Sequence[RatedEvaluation]) -> str:
    """Return the evaluations on rated images as a JSON list."""
    return json.dumps([_rated_dict(evaluation) for evaluation in evaluations], indent=2, allow_nan=False)


def print_rated(evaluations: Sequence[RatedEvaluation]) -> None:
    """Print a line an evaluation, then a table in Markdown, and one by type of distortion where there are types."""
    print(*(f"{one_line(e.method)}, {e.dataset}: {_said(e)}" for e in evaluations), sep="\n", end="\n\n")
    print(markdown_table(evaluations))
    if any(evaluation.groups for evaluation in evaluations):
        print(markdown_table_by_group(evaluations))


def _said(evaluation: RatedEvaluation) -> str:
    of = evaluation.overall
    split = evaluation.split if "median" in evaluation.split else f"split {evaluation.split}"
    return f"{of.images:.0f} images, {split}, KRCC {of.krcc:.3f}, RMSE {of.rmse_fitted:.3g} after the fit"


def _rated_dict(evaluation: RatedEvaluation) -> dict[str, Any]:
    return {
        "method": evaluation.method,
        "trained_on": evaluation.trained_on,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "overall": _measures(evaluation.overall),
        "groups": {name: _measures(measures) for name, measures in evaluation.groups.items()},
    }


def _measures(measures: Correlations) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in measures._asdict().items()}
