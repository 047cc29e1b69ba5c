"""train: the weights that a recipe ends with.

Exact resume: the order of the items, their crops, dropout and the initial weights are functions of the recipe's seed
and of the position in the run, and a checkpoint holds everything else. So a run that was killed goes on with the same
batches and ends with the same bits, on the same machine with as many threads and processes (tested on CPUs).

Several processes (`torchrun`): each computes its share of every batch, and DistributedDataParallel averages the
gradients, so an update is that of one process with the whole batch. Batch normalisation in training takes its
statistics over what a process computes at once, batch_size / (processes · accumulate) items; the running ones are those
of the first process. A loss that compares the items of a batch, as of contrastive pre-training, sees as many. Two
processes are thus equivalent to one that accumulates two parts, and, where the backbone is frozen and the head has no
normalisation, to one that computes the batch at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastiqa.training.config.settings import Step
from fastiqa.training.recipes.recipe import Part, Recipe
from fastiqa.training.run import rates, setup
from fastiqa.training.run.batches import Batch, Key, epoch_order, load, parts_of
from fastiqa.training.run.checkpoint import Checkpoint, Position, read_checkpoint, save_checkpoint
from fastiqa.training.run.folder import RunFolder
from fastiqa.training.run.gradients import backward
from fastiqa.training.run.interruptions import Interruptions, Stopped, interruptions
from fastiqa.training.run.logs import BatchReport, EpochReport, Observer, peak_memory_mb
from fastiqa.training.run.optimizer import (
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from fastiqa.training.run.processes import Processes, joined
from fastiqa.training.run.validation import validate
from fastiqa.training.tasks import TASKS, Items, blocks_of


class TrainingError(RuntimeError):
    """A run that cannot go on. The message is one line: step, epoch, batch and reason."""


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str | None = None,
    datasets: Mapping[str, Items] | None = None,
    observers: Sequence[Observer] = (),
) -> Path:
    """Train a network.

    Under `torchrun` every process calls this alike. PyTorch's random numbers are left as they were.

    Args:
        recipe: see `fastiqa.training.read_recipe`.
        folder: of the run, see `fastiqa.training.run.folder`.
        resume: go on from the folder's checkpoint, or begin where there is none yet.
        device: "cpu" or "cuda"; None is CUDA where there is one.
        datasets: data sets by name that replace the recipe's, see `fastiqa.training.tasks`.
        observers: what else hears of every batch and epoch, in the first process.

    Returns:
        The file of the trained network, for `fastiqa.load_model`; of contrastive pre-training that of its backbone, for
        `fastiqa.models.load_backbone`.

    Raises:
        RecipeError: for a recipe whose model or data cannot be built, or whose batches cannot be cut.
        FileExistsError: where the folder holds a run and `resume` is False, or other files and no run.
        fastiqa.common.files.FolderInUseError: an OSError, where another run writes to the folder.
        CheckpointError: for a checkpoint of another run, or one that cannot be written; the older one stays.
        DataError: naming data set and item.
        TrainingError: where the loss or its gradients are not finite: it names the batch, and no weight is changed.
            Where weights or a validation are not finite after an update: no file is written any more.
        Stopped: after Ctrl-C or SIGTERM, when the update in progress has ended and a checkpoint is written. Only the
            main thread of a process can wait for these signals.

    Example:
        >>> import tempfile
        >>> from fastiqa.training import read_recipe, train
        >>> recipe = read_recipe("smoke", ["steps.coarse.epochs=1", "steps.fine=null", "workers=0"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train(recipe, folder, device="cpu").name
        'model.safetensors'
    """
    with joined(device) as processes:
        cuda = [processes.device] if processes.device.type == "cuda" else []
        run_folder = RunFolder(Path(folder), TASKS[recipe.task].save)
        with torch.random.fork_rng(devices=cuda), run_folder:
            # No name for it: what belongs to the process group goes before the group does.
            trainer = Trainer(recipe, run_folder, processes, datasets or {}, resume)
            with interruptions() as signals:
                return trainer.run(observers, signals)


class Trainer:
    """One run of a recipe in one process; arguments as of `train`."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, processes: Processes, datasets: Mapping[str, Items], resume: bool
    ) -> None:
        self._task = TASKS[recipe.task]
        self._recipe, self._folder, self._processes = recipe, folder, processes
        self._datasets = setup.build_datasets(recipe, datasets)
        setup.check_parts(recipe, self._datasets)
        setup.check_batches(recipe, self._datasets, processes.size)
        self._model: nn.Module = setup.build_model(recipe).to(processes.device)
        setup.check_rates(recipe, self._model)
        setup.check_types(recipe, self._datasets, self._model)
        if recipe.channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._names = {parameter: name for name, parameter in self._model.named_parameters()}
        self._ema = None
        if recipe.ema is not None:
            self._ema = AveragedModel(self._model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self._position = Position()
        self._saved: Checkpoint | None = None
        if processes.rank == 0:
            folder.begin(resume)
        processes.wait()
        if folder.checkpoint.exists():
            self._restore(read_checkpoint(folder.checkpoint, recipe.as_dict(), self._model.state_dict()))
        self._observers: list[Observer] = []
        self._signals = Interruptions()

    def run(self, observers: Sequence[Observer], signals: Interruptions) -> Path:
        """Train to the end; returns the file of the network."""
        self._signals = signals
        if self._processes.rank == 0:
            self._observers = [*self._folder.observers(self._recipe, self._position), *observers]
        try:
            for part in self._recipe.timeline():
                if self._position.epoch < part.last:
                    self._begin(part)
                while self._position.epoch < part.last:
                    self._epoch(part)
        finally:
            for observer in self._observers:
                observer.close()
        return self._folder.model

    def _restore(self, saved: Checkpoint) -> None:
        self._model.load_state_dict(saved.model)
        if self._ema is not None:
            self._ema.load_state_dict(saved.ema)
        self._position = saved.position
        self._saved = saved

    def _begin(self, part: Part) -> None:
        """What a step has of its own: which weights are trained, and their optimizer."""
        factors = part.step.factors()
        rates.freeze(self._model, factors)
        self._module = self._processes.parallel(self._task.module(self._model), self._task.unused_parameters)
        self._optimizer = build_optimizer(part.step.optimizer, rates.parameter_groups(self._model, factors))
        if self._saved is not None and (self._position.epoch, self._position.batch) != (part.first, 0):
            load_optimizer_tensors(self._optimizer, self._names, self._saved.optimizer)
        self._saved = None

    def _epoch(self, part: Part) -> None:
        step, position = part.step, self._position
        self._module.train()
        rates.set_training(self._model, step.factors())
        for dataset in self._datasets.values():
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(position.epoch)
        blocks = {name: blocks_of(self._datasets[name]) for name in step.losses}
        order = epoch_order(blocks, step.batch_size, self._recipe.seed, position.epoch)
        rest = order[position.batch :]
        loaded = self._load(step, rest)
        clock = time.perf_counter()
        for keys in rest:
            rate = learning_rate(step, position.epoch - part.first, position.batch / len(order))
            set_learning_rate(self._optimizer, rate)
            loss, norm = self._update(part, keys, loaded)
            position.add(keys[0][0], loss)
            before, clock = clock, time.perf_counter()
            report = BatchReport(
                step=part.name,
                epoch=position.epoch + 1,
                batch=position.batch,
                batches=len(order),
                iteration=position.iteration,
                data=keys[0][0],
                loss=loss,
                gradient_norm=norm,
                lr=rate,
                images_per_second=self._task.item.images * len(keys) / (clock - before),
                memory_mb=peak_memory_mb(self._processes.device),
            )
            for observer in self._observers:
                observer.batch(report)
            stopped = self._processes.greatest(self._signals.number)
            due = position.iteration % self._recipe.checkpoint_every == 0
            if (due or stopped) and position.batch < len(order):
                self._checkpoint(part)
                self._stop(stopped)
        self._end_epoch(part)
        self._stop(self._processes.greatest(self._signals.number))

    def _stop(self, number: int) -> None:
        """End the run, whose checkpoint is written, if there was a signal."""
        if number:
            raise Stopped(number, f"stopped; --resume goes on from {self._folder.checkpoint}")

    def _load(self, step: Step, order: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """This process's parts of the batches, one after the other."""
        rank, size, device = self._processes
        parts = [part for batch in order for part in parts_of(batch, rank, size, step.accumulate)]
        return load(self._task.item, self._datasets, parts, self._recipe.workers, pin_memory=device.type == "cuda")

    def _update(self, part: Part, keys: Sequence[Key], loaded: Iterator[Batch]) -> tuple[float, float]:
        """Update the weights by one batch; returns its mean loss and the norm of its gradients."""
        recipe, position, source = self._recipe, self._position, keys[0][0]
        where = f"{_where(part, position)}, batch {position.batch + 1}: data.{source}"
        key = (recipe.seed, position.epoch, position.batch)
        try:
            losses = backward(self._task, self._module, loaded, part.step, self._processes, recipe.amp, key)
        except (TypeError, ValueError) as error:  # images that the network does not take
            raise TrainingError(f"{where}: {error}") from error
        bad = [str(index) for (_, index), loss in zip(keys, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            items = f"{self._task.item.noun}s {', '.join(bad)}"
            raise TrainingError(f"{where}: {items}: the loss is not finite; the weights were not updated")
        gradients = [p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            raise TrainingError(f"{where}: the gradients are not finite; the weights were not updated")
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._ema is not None:
            self._ema.update_parameters(self._model)
        return float(losses.mean()), norm

    def _end_epoch(self, part: Part) -> None:
        position, wanted = self._position, self._recipe.validation
        self._check_weights(part)
        result: nn.Module = self._model if self._ema is None else self._ema.module
        validation = {}
        if (position.epoch + 1 - part.first) % wanted.every == 0 or position.epoch + 1 == part.last:
            data = {name: self._datasets[name] for name in wanted.data}
            workers, amp = self._recipe.workers, self._recipe.amp
            try:
                validation = validate(self._task, result, data, self._processes, wanted.batch_size, workers, amp)
            except ValueError as error:
                raise TrainingError(f"{_where(part, position)}: {error}; older files are kept") from error
        report = EpochReport(part.name, position.epoch + 1, position.iteration, position.mean_losses(), validation)
        for observer in self._observers:
            observer.epoch(report)
        if self._processes.rank == 0:
            self._folder.end_epoch(result)  # before the checkpoint, which says that all of the epoch is done
        position.next_epoch()
        self._checkpoint(part)

    def _check_weights(self, part: Part) -> None:
        """Raise TrainingError where the last update left weights or statistics that are not finite."""
        for name, value in self._model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise TrainingError(f"{_where(part, self._position)}: {name} is not finite; older files are kept")

    def _checkpoint(self, part: Part) -> None:
        self._check_weights(part)
        if self._processes.rank == 0:
            ema = {} if self._ema is None else self._ema.state_dict()
            optimizer = optimizer_tensors(self._optimizer, self._names)
            checkpoint = Checkpoint(self._model.state_dict(), optimizer, ema, self._position)
            save_checkpoint(self._folder.checkpoint, checkpoint, self._recipe.as_dict())


def _where(part: Part, position: Position) -> str:
    return f"step {part.name}, epoch {position.epoch + 1}"
