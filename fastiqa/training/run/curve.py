"""The learning curve of a run, drawn from its log."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from fastiqa.common.files import replacing
from fastiqa.training.run.logs import read_log


def draw_curve(log: Path, picture: Path) -> bool:
    """Draw the losses, and the validation where there was one, against the updates of the weights, as PNG.

    Returns: whether it was drawn: not without matplotlib, nor before the end of the first epoch.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    lines = read_log(log)
    epochs = [line for line in lines if line["event"] == "epoch"]
    if not epochs:
        return False
    from matplotlib.figure import Figure

    validated = [line for line in epochs if line["validation"]]
    figure = Figure(figsize=(8, 6 if validated else 3.5), layout="constrained")
    panels = figure.subplots(2 if validated else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_losses(panels[0], [line for line in lines if line["event"] == "batch"], epochs)
    if validated:
        _draw_validation(panels[1], validated)
    for before, after in pairwise(epochs):
        if before["step"] != after["step"]:
            for axes in panels:
                axes.axvline(before["iteration"], color="black", linewidth=0.8)
    panels[-1].set_xlabel("updates of the weights")
    with replacing(picture) as temporary:
        # No date or version in the file: the same log gives the same bytes.
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    return True


def _draw_losses(axes: Any, batches: list[dict[str, Any]], epochs: list[dict[str, Any]]) -> None:
    """Batches as dots, means of epochs as lines, a colour for each data set."""
    for k, name in enumerate(dict.fromkeys(name for line in epochs for name in line["loss"])):
        mine = [line for line in batches if line["data"] == name]
        axes.plot(*_points(mine, lambda line: line["loss"]), ".", color=f"C{k}", markersize=2, alpha=0.3)
        means = [line for line in epochs if name in line["loss"]]
        axes.plot(*_points(means, lambda line, name=name: line["loss"][name]), "-o", color=f"C{k}", ms=3, label=name)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend()


def _draw_validation(axes: Any, epochs: list[dict[str, Any]]) -> None:
    """The first value of each validation, which is the most telling one."""
    first = next(iter(next(iter(epochs[0]["validation"].values()))))
    for k, name in enumerate(dict.fromkeys(name for line in epochs for name in line["validation"])):
        mine = [line for line in epochs if name in line["validation"]]
        values = _points(mine, lambda line, name=name: line["validation"][name][first])
        axes.plot(*values, "-o", color=f"C{k}", ms=3, label=name)
    axes.set_ylabel(first)
    axes.legend()


def _points(lines: list[dict[str, Any]], value: Any) -> tuple[list[int], list[float]]:
    numbers = [math.nan if (number := value(line)) is None else number for line in lines]  # null: undefined
    return [line["iteration"] for line in lines], numbers
