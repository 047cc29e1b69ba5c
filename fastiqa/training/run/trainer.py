"""train: runs a recipe to its final weights.

A killed run resumes with the same batches and ends bit-identical, on the same machine with as many threads and
processes (tested on CPUs). The order of the items, their crops, dropout and the initial weights depend on the recipe's
seed and the position in the run alone, and a checkpoint holds everything else.

With several processes (`torchrun`), each computes its share of every batch and DistributedDataParallel averages the
gradients, so an update equals one process's with the whole batch. In training, batch normalisation takes its statistics
over the items that a process computes at once, batch_size / (processes · accumulate); the running statistics are the
first process's. A loss that compares the items of a batch, as in contrastive pre-training, sees as many. So two
processes equal one that accumulates two parts. If the backbone is frozen and the head has no normalisation, they also
equal one that computes the batch at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastiqa.training.config.settings import Step
from fastiqa.training.recipes.recipe import Recipe, ScheduledStep
from fastiqa.training.run import setup
from fastiqa.training.run.batches import Batch, Key, epoch_order, load, parts_of, seed_of
from fastiqa.training.run.checkpoint import Checkpoint, Position, read_checkpoint, save_checkpoint
from fastiqa.training.run.folder import RunFolder
from fastiqa.training.run.logs import BatchReport, EpochReport, Observer, peak_memory_mb
from fastiqa.training.run.optimizer import (
    build_optimizer,
    freeze,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    set_learning_rate,
    set_training,
)
from fastiqa.training.run.processes import (
    Interruptions,
    Processes,
    Stopped,
    gradients_stay_here,
    interruptions,
    joined,
)
from fastiqa.training.run.validation import validate
from fastiqa.training.tasks import TASKS, Items, Task, blocks_of


class TrainingError(RuntimeError):
    """The run cannot go on. The message is one line: step, epoch, batch and reason."""


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

    Under `torchrun`, every process makes this call. PyTorch's random state is left as it was.

    Args:
        recipe: from `fastiqa.training.read_recipe`.
        folder: the run's folder, see `fastiqa.training.run.folder`; made if it does not exist.
        resume: resume from the folder's checkpoint, or begin if there is none yet.
        device: "cpu" or "cuda"; None is CUDA if there is any.
        datasets: data sets by name that replace the recipe's, see `fastiqa.training.tasks`.
        observers: get a report of every batch and epoch, in the first process.

    Returns:
        The file of the trained network, for `fastiqa.load_model`; after contrastive pre-training the file of its
        backbone, for `fastiqa.models.load_backbone`.

    Raises:
        RecipeError: the model or the data cannot be built, or the batches cannot be cut.
        FileExistsError: the folder is a file, holds a run while `resume` is False, or holds other files and no run.
        fastiqa.common.files.FolderInUseError: an OSError: another run writes to the folder.
        CheckpointError: a checkpoint of another run, or one that cannot be written; the older one stays.
        DataError: an item cannot be read or has another size; it names data set and item.
        TrainingError: the loss or its gradients are not finite; it names the batch, and no weight is changed. Or
            weights or a validation are not finite after an update; no file is written any more.
        Stopped: Ctrl-C or SIGTERM came; the update in progress has ended and a checkpoint is written. Only the main
            thread of a process can wait for these signals.

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
            trainer = Trainer(recipe, run_folder, processes, datasets or {}, resume)
            try:
                with interruptions() as signals:
                    return trainer.run(observers, signals)
            finally:
                del trainer  # DistributedDataParallel goes before its process group does


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
        setup.check_lr_factors(recipe, self._model)
        setup.check_types(recipe, self._datasets, self._model)
        setup.check_features(recipe, self._datasets, self._model)
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
        """Train to the end. Returns the file of the network."""
        self._signals = signals
        if self._processes.rank == 0:
            self._observers = [*self._folder.observers(self._recipe, self._position), *observers]
        try:
            for current in self._recipe.timeline():
                if self._position.epoch < current.last:
                    self._begin(current)
                while self._position.epoch < current.last:
                    self._epoch(current)
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

    def _begin(self, current: ScheduledStep) -> None:
        """Start a step: freeze weights and build its optimizer."""
        factors = current.step.factors()
        freeze(self._model, factors)
        self._module = self._processes.parallel(self._task.module(self._model), self._task.unused_parameters)
        self._optimizer = build_optimizer(current.step.optimizer, parameter_groups(self._model, factors))
        if self._saved is not None and (self._position.epoch, self._position.batch) != (current.first, 0):
            load_optimizer_tensors(self._optimizer, self._names, self._saved.optimizer)
        self._saved = None

    def _epoch(self, current: ScheduledStep) -> None:
        step, position = current.step, self._position
        self._module.train()
        set_training(self._model, step.factors())
        for dataset in self._datasets.values():
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(position.epoch)
        blocks = {name: blocks_of(self._datasets[name]) for name in step.losses}
        order = epoch_order(blocks, step.batch_size, self._recipe.seed, position.epoch)
        rest = order[position.batch :]
        loaded = self._load(step, rest)
        clock = time.perf_counter()
        for keys in rest:
            rate = learning_rate(step, position.epoch - current.first, position.batch / len(order))
            set_learning_rate(self._optimizer, rate)
            loss, norm = self._update(current, keys, loaded)
            position.add(keys[0][0], loss)
            before, clock = clock, time.perf_counter()
            report = BatchReport(
                step=current.name,
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
                self._checkpoint(current)
                self._stop(stopped)
        self._end_epoch(current)
        self._stop(self._processes.greatest(self._signals.number))

    def _stop(self, number: int) -> None:
        """Raise Stopped if there was a signal; the checkpoint is written."""
        if number:
            raise Stopped(number, f"stopped; --resume goes on from {self._folder.checkpoint}")

    def _load(self, step: Step, order: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """Read this process's parts of the batches, one after the other."""
        rank, size, device = self._processes
        parts = [part for batch in order for part in parts_of(batch, rank, size, step.accumulate)]
        return load(self._task.item, self._datasets, parts, self._recipe.workers, pin_memory=device.type == "cuda")

    def _update(self, current: ScheduledStep, keys: Sequence[Key], loaded: Iterator[Batch]) -> tuple[float, float]:
        """Update the weights by one batch. Returns its mean loss and the norm of its gradients."""
        recipe, position, source = self._recipe, self._position, keys[0][0]
        where = f"{_where(current, position)}, batch {position.batch + 1}: data.{source}"
        key = (recipe.seed, position.epoch, position.batch)
        try:
            losses = backward(self._task, self._module, loaded, current.step, self._processes, recipe.amp, key)
        except (TypeError, ValueError) as error:  # the network refuses the images
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

    def _end_epoch(self, current: ScheduledStep) -> None:
        position, asked = self._position, self._recipe.validation
        self._check_weights(current)
        result: nn.Module = self._model if self._ema is None else self._ema.module
        validation = {}
        if (position.epoch + 1 - current.first) % asked.every == 0 or position.epoch + 1 == current.last:
            data = {name: self._datasets[name] for name in asked.data}
            workers, amp = self._recipe.workers, self._recipe.amp
            try:
                validation = validate(self._task, result, data, self._processes, asked.batch_size, workers, amp)
            except ValueError as error:
                raise TrainingError(f"{_where(current, position)}: {error}; older files are kept") from error
        report = EpochReport(current.name, position.epoch + 1, position.iteration, position.mean_losses(), validation)
        for observer in self._observers:
            observer.epoch(report)
        if self._processes.rank == 0:
            self._folder.end_epoch(result)  # before the checkpoint, which says that the epoch is done
        position.next_epoch()
        self._checkpoint(current)

    def _check_weights(self, current: ScheduledStep) -> None:
        """Raise TrainingError if the last update left weights or statistics that are not finite."""
        for name, value in self._model.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise TrainingError(f"{_where(current, self._position)}: {name} is not finite; older files are kept")

    def _checkpoint(self, current: ScheduledStep) -> None:
        self._check_weights(current)
        if self._processes.rank == 0:
            ema = {} if self._ema is None else self._ema.state_dict()
            optimizer = optimizer_tensors(self._optimizer, self._names)
            checkpoint = Checkpoint(self._model.state_dict(), optimizer, ema, self._position)
            save_checkpoint(self._folder.checkpoint, checkpoint, self._recipe.as_dict())


def _where(current: ScheduledStep, position: Position) -> str:
    return f"step {current.name}, epoch {position.epoch + 1}"


def backward(
    task: Task,
    module: nn.Module,
    parts: Iterator[Batch],
    step: Step,
    processes: Processes,
    amp: bool,
    key: tuple[int, ...],
) -> Tensor:
    """Add the gradients of a batch's mean loss to those of the module's parameters.

    Args:
        task: computes the losses.
        module: `task.module` of a network, after `processes.parallel`.
        parts: yields this process's `step.accumulate` parts of the batch.
        step: the losses by data set, and the batch size.
        processes: share the batch.
        amp: compute in bfloat16 under autocast.
        key: differs from batch to batch. Dropout masks depend on it and on the part's place in the batch.

    Returns:
        The loss of each item of the batch in all processes, (batch_size,), float32, in the order of the batch.
    """
    share = step.batch_size // processes.size
    losses = []
    for k in range(step.accumulate):
        batch = next(parts).to(processes.device)
        torch.manual_seed(seed_of(*key, processes.rank * step.accumulate + k))
        with gradients_stay_here(module, k < step.accumulate - 1):
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=amp):
                output = module(*batch.inputs)
            loss = task.total_loss(step.terms(batch.source), output, batch.targets)
            (loss.sum() / share).backward()
        losses.append(loss.detach())
    return processes.gather(torch.cat(losses))
