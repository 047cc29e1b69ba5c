"""The reports of a run, the observers that keep them (log.jsonl, TensorBoard), and the learning curve of a log."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from fastiqa.common.extras import install_command
from fastiqa.common.files import replacing
from fastiqa.training.run.checkpoint import CheckpointError, Position


@dataclass(frozen=True)
class BatchReport:
    """One update of the weights.

    Attributes:
        step: the step's name.
        epoch, batch, batches: the epoch, from 1, the number of its batches done, and of all its batches.
        iteration: updates since the start of the run.
        data: the data set of the batch.
        loss: mean over the batch in all processes.
        gradient_norm: Euclidean norm of all gradients together.
        lr: learning rate.
        images_per_second: images per second in all processes.
        memory_mb: this process's greatest memory so far in MB: allocated on its CUDA device, else resident.
    """

    step: str
    epoch: int
    batch: int
    batches: int
    iteration: int
    data: str
    loss: float
    gradient_norm: float
    lr: float
    images_per_second: float
    memory_mb: float


@dataclass(frozen=True)
class EpochReport:
    """The end of an epoch.

    Attributes:
        step, epoch, iteration: as in `BatchReport`.
        loss: mean over the epoch's batches, by data set.
        validation: by data set the task's values, such as "accuracy" (two-alternative forced choice) and "bce", the
            most telling one first; empty without a validation.
    """

    step: str
    epoch: int
    iteration: int
    loss: dict[str, float]
    validation: dict[str, dict[str, float]]


class Observer(Protocol):
    """Gets a report of every update and every epoch."""

    def batch(self, report: BatchReport) -> None: ...

    def epoch(self, report: EpochReport) -> None: ...

    def close(self) -> None: ...


class JSONLog:
    """One JSON object a line: {"event": "batch" or "epoch", and the fields of the report}.

    An undefined correlation, as of equal scores, is null: JSON has no NaN. A resumed run drops the lines that its
    checkpoint does not cover.

    Args:
        path: the file.
        position: where the run begins or resumes.
        every: batches between two lines.

    Raises: CheckpointError naming file and line if the file is no log of a run.
    """

    def __init__(self, path: Path, position: Position, every: int) -> None:
        self._every = every
        kept = [line for line in read_log(path) if _is_before(line, position)] if path.exists() else []
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def batch(self, report: BatchReport) -> None:
        if report.iteration % self._every == 0:
            self._write("batch", report)

    def epoch(self, report: EpochReport) -> None:
        self._write("epoch", report)

    def close(self) -> None:
        self._file.close()

    def _write(self, event: str, report: BatchReport | EpochReport) -> None:
        fields = _without_nan({"event": event, **dataclasses.asdict(report)})
        print(json.dumps(fields, allow_nan=False), file=self._file, flush=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without one that a killed process left unfinished.

    Raises: CheckpointError naming the file and line.
    """
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            try:
                content = json.loads(line)
                _is_before(content, Position())
            except (KeyError, TypeError, ValueError):
                raise CheckpointError(f"{path}:{number}: not a line of the log of a run") from None
            lines.append(content)
    return lines


def _is_before(line: dict[str, Any], position: Position) -> bool:
    if line["event"] == "epoch":
        return bool(line["epoch"] <= position.epoch)
    return bool(line["iteration"] <= position.iteration)


class TensorBoardLog:
    """Scalars for TensorBoard over the iteration; arguments as of `JSONLog`.

    Raises: ImportError if tensorboard is not installed.
    """

    def __init__(self, folder: Path, position: Position, every: int) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            raise ImportError(f"tensorboard: true needs tensorboard: {install_command('train')}") from None
        self._every = every
        # Hides what was written after the checkpoint.
        self._writer = module.SummaryWriter(str(folder), purge_step=position.iteration + 1)

    def batch(self, report: BatchReport) -> None:
        if report.iteration % self._every == 0:
            self._writer.add_scalar(f"loss/{report.data}", report.loss, report.iteration)
            for name in ("gradient_norm", "lr", "images_per_second", "memory_mb"):
                self._writer.add_scalar(name, getattr(report, name), report.iteration)

    def epoch(self, report: EpochReport) -> None:
        for data, values in report.validation.items():
            for name, value in values.items():
                self._writer.add_scalar(f"{name}/{data}", value, report.iteration)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def peak_memory_mb(device: torch.device) -> float:
    """The greatest memory so far in MB: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def draw_curve(log: Path, picture: Path) -> bool:
    """Draw a log's losses and validation over the updates of the weights, as PNG.

    Returns: False, without a picture, if matplotlib is not installed or no epoch is done.
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
    """Batches as dots, epoch means as lines, a colour for each data set."""
    for k, name in enumerate(dict.fromkeys(name for line in epochs for name in line["loss"])):
        mine = [line for line in batches if line["data"] == name]
        axes.plot(*_points(mine, lambda line: line["loss"]), ".", color=f"C{k}", markersize=2, alpha=0.3)
        means = [line for line in epochs if name in line["loss"]]
        axes.plot(*_points(means, lambda line, name=name: line["loss"][name]), "-o", color=f"C{k}", ms=3, label=name)
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend()


def _draw_validation(axes: Any, epochs: list[dict[str, Any]]) -> None:
    """The first value of each validation, the most telling one."""
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
