"""What a run reports while it goes, and the observers that keep it: log.jsonl and TensorBoard."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from dataclasses import dataclass
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
        epoch, batch, batches: which epoch, from 1, and how many of its batches are done.
        iteration: updates since the start of the run.
        data: the data set of the batch.
        loss: mean over the batch, of all processes.
        gradient_norm: Euclidean norm of all gradients together.
        lr: learning rate.
        images_per_second: of all processes.
        memory_mb: greatest memory so far of this process, MB: allocated on its CUDA device, else resident.
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
        loss: mean of the batches by data set.
        validation: by data set the task's values, such as "accuracy" (two-alternative forced choice) and "bce", the
            most telling one first, where there was a validation.
    """

    step: str
    epoch: int
    iteration: int
    loss: dict[str, float]
    validation: dict[str, dict[str, float]]


class Observer(Protocol):
    """Hears of every update and of every epoch."""

    def batch(self, report: BatchReport) -> None: ...

    def epoch(self, report: EpochReport) -> None: ...

    def close(self) -> None: ...


class JSONLog:
    """One JSON object a line: {"event": "batch" or "epoch", and the fields of the report}.

    A correlation that is undefined, as of equal scores, is null: JSON has no NaN. A resumed run drops the lines that
    its checkpoint does not cover.

    Args:
        path: the file.
        position: where the run begins or goes on.
        every: batches between two lines.

    Raises: CheckpointError naming the file and line where there is a file that is no log of a run.
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
    """The lines of a log; one that a killed process left unfinished is left out.

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
    """Scalars for TensorBoard, against the iteration.

    Raises: ImportError without tensorboard.
    """

    def __init__(self, folder: Path, position: Position, every: int) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            raise ImportError(f"tensorboard: true needs tensorboard: {install_command('train')}") from None
        self._every = every
        # What was written after the checkpoint is hidden.
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
    """The greatest memory so far, in MB: allocated on a CUDA device, else resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
