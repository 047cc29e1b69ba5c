"""A run's progress bar on the terminal: loss, images per second, memory, time left; and a line for each epoch."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastiqa.training.run.logs import BatchReport, EpochReport


class ProgressBar:
    """Observer that draws on a rich console; if it is no terminal, only the line of each epoch is printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._progress.add_task("", numbers="", total=None)

    def batch(self, report: BatchReport) -> None:
        if not self._console.is_terminal:
            return
        self._progress.start()
        if report.batch == 1:
            self._progress.reset(self._task)
        numbers = f"loss {report.loss:.4f} · {report.images_per_second:.1f} images/s · {report.memory_mb:.0f} MB"
        description = f"{report.step}, epoch {report.epoch}"
        self._progress.update(
            self._task, description=description, completed=report.batch, total=report.batches, numbers=numbers
        )

    def epoch(self, report: EpochReport) -> None:
        losses = [f"loss of {name} {value:.4f}" for name, value in report.loss.items()]
        firsts = [(name, *next(iter(values.items()))) for name, values in report.validation.items()]
        scores = [f"{value} on {name} {number:.4f}" for name, value, number in firsts]  # the most telling of each
        self._console.print(
            f"{report.step}, epoch {report.epoch}: {', '.join(losses + scores)}", highlight=False, soft_wrap=True
        )

    def close(self) -> None:
        if self._console.is_terminal:
            self._progress.stop()
