"""train: the weights that a recipe ends with.

Exact resume: the order of the triplets, their crops, dropout and the initial weights are functions of the recipe's seed
and of the position in the run, and a checkpoint holds everything else. So a run that was killed goes on with the same
batches and ends with the same bits, on the same machine with as many threads and processes (tested on CPUs).

Several processes (`torchrun`): each computes its share of every batch, and DistributedDataParallel averages the
gradients, so an update is that of one process with the whole batch. Batch normalisation in training takes its
statistics over what a process computes at once, 3 · batch_size / (processes · accumulate) images; the running ones are
those of the first process. Two processes are thus equivalent to one that accumulates two parts, and, where the backbone
is frozen and the head has no normalisation, to one that computes the batch at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastiqa.training import setup
from fastiqa.training.batches import Batch, Key, epoch_order, load, parts_of, seed_of
from fastiqa.training.checkpoint import Checkpoint, Position, read_checkpoint, save_checkpoint
from fastiqa.training.comparison import PackedComparison, losses_of
from fastiqa.training.datasets import Triplets
from fastiqa.training.evaluation import evaluate
from fastiqa.training.folder import RunFolder
from fastiqa.training.logs import BatchReport, EpochReport, Observer, peak_memory_mb
from fastiqa.training.optimizer import (
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from fastiqa.training.processes import Processes, gradients_stay_here, joined
from fastiqa.training.recipe import Part, Recipe


class TrainingError(RuntimeError):
    """A run that cannot go on. The message is one line: step, epoch, batch and reason."""


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str | None = None,
    datasets: Mapping[str, Triplets] | None = None,
    observers: Sequence[Observer] = (),
) -> Path:
    """Train a network.

    Under `torchrun` every process calls this alike. PyTorch's random numbers are left as they were.

    Args:
        recipe: see `fastiqa.training.read_recipe`.
        folder: of the run, see `fastiqa.training.folder`.
        resume: go on from the folder's checkpoint, or begin where there is none yet.
        device: "cpu" or "cuda"; None is CUDA where there is one.
        datasets: data sets to use in the place of the recipe's, by name, see `fastiqa.training.datasets`.
        observers: what else hears of every batch and epoch, in the first process.

    Returns:
        The file of the trained network, for `fastiqa.load_model`.

    Raises:
        RecipeError: for a recipe whose model or data cannot be built, or whose batches cannot be cut.
        FileExistsError: where the folder holds a run and `resume` is False.
        CheckpointError: for a checkpoint of another run, or one that cannot be written; the older one stays.
        DataError: naming data set and triplet.
        TrainingError: where the loss is not finite: it names the batch, and the weights are not updated.

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
        with torch.random.fork_rng(devices=cuda):
            trainer = Trainer(recipe, RunFolder(Path(folder)), processes, datasets or {}, resume)
            return trainer.run(observers)


class Trainer:
    """One run of a recipe in one process; arguments as of `train`."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, processes: Processes, datasets: Mapping[str, Triplets], resume: bool
    ) -> None:
        self._recipe, self._folder, self._processes = recipe, folder, processes
        self._datasets = setup.build_datasets(recipe, datasets)
        setup.check_batches(recipe, self._datasets, processes.size)
        self._model: nn.Module = setup.build_model(recipe).to(processes.device)
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

    def run(self, observers: Sequence[Observer] = ()) -> Path:
        """Train to the end; returns the file of the network."""
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
        step = part.step
        model: Any = self._model  # nn.Module's attributes have no types
        model.backbone.requires_grad_(not step.freeze_backbone)
        self._module = self._processes.parallel(PackedComparison(model, step.freeze_backbone))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = build_optimizer(step.optimizer, trained)
        if self._saved is not None and (self._position.epoch, self._position.batch) != (part.first, 0):
            load_optimizer_tensors(self._optimizer, self._names, self._saved.optimizer)
        self._saved = None

    def _epoch(self, part: Part) -> None:
        step, position, recipe = part.step, self._position, self._recipe
        epoch = position.epoch
        self._module.train()
        for dataset in self._datasets.values():
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
        sources = {name: self._datasets[name] for name in step.losses}
        lengths = {name: len(dataset) for name, dataset in sources.items()}  # type: ignore[arg-type]
        order = epoch_order(lengths, step.batch_size, recipe.seed, epoch)
        rest = order[position.batch :]
        rank, size = self._processes.rank, self._processes.size
        parts = [part for batch in rest for part in parts_of(batch, rank, size, step.accumulate)]
        loaded = load(sources, parts, recipe.workers, pin_memory=self._processes.device.type == "cuda")
        clock = time.perf_counter()
        for keys in rest:
            rate = learning_rate(step, epoch - part.first, position.batch / len(order))
            set_learning_rate(self._optimizer, rate)
            loss = self._update(part, keys, loaded)
            position.add(keys[0][0], loss)
            before, clock = clock, time.perf_counter()
            speed = 3 * len(keys) / (clock - before)
            memory = peak_memory_mb(self._processes.device)
            report = BatchReport(
                part.name,
                epoch + 1,
                position.batch,
                len(order),
                position.iteration,
                keys[0][0],
                loss,
                rate,
                speed,
                memory,
            )
            for observer in self._observers:
                observer.batch(report)
            if position.iteration % recipe.checkpoint_every == 0 and position.batch < len(order):
                self._checkpoint()
        self._end_epoch(part)

    def _update(self, part: Part, keys: list[Key], loaded: Iterator[Batch]) -> float:
        """Update the weights by one batch; returns its mean loss."""
        step, processes = part.step, self._processes
        share = step.batch_size // processes.size
        losses = []
        for k in range(step.accumulate):
            batch = next(loaded).to(processes.device)
            place = processes.rank * step.accumulate + k
            torch.manual_seed(seed_of(self._recipe.seed, self._position.epoch, self._position.batch, place))  # dropout
            with gradients_stay_here(self._module, k < step.accumulate - 1):
                try:
                    with torch.autocast(processes.device.type, torch.bfloat16, enabled=self._recipe.amp):
                        logits = self._module(batch.ref, batch.a, batch.b)
                except (TypeError, ValueError) as error:  # images that the network does not take
                    raise TrainingError(f"{self._where(part)}: data.{batch.source}: {error}") from error
                loss = losses_of(step.losses[batch.source], logits, batch.label)
                (loss.sum() / share).backward()
            losses.append(loss.detach())
        everyones = processes.gather(torch.cat(losses))
        if not torch.isfinite(everyones).all():
            bad = [
                index for (_, index), loss in zip(keys, everyones.tolist(), strict=True) if not abs(loss) < torch.inf
            ]
            which = f"data.{keys[0][0]}: triplets {', '.join(map(str, bad))}"
            raise TrainingError(f"{self._where(part)}: {which}: the loss is not finite; the weights were not updated")
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._ema is not None:
            self._ema.update_parameters(self._model)
        return float(everyones.mean())

    def _where(self, part: Part) -> str:
        return f"step {part.name}, epoch {self._position.epoch + 1}, batch {self._position.batch + 1}"

    def _end_epoch(self, part: Part) -> None:
        position, wanted = self._position, self._recipe.validation
        result: nn.Module = self._model if self._ema is None else self._ema.module
        validation = {}
        if (position.epoch + 1 - part.first) % wanted.every == 0 or position.epoch + 1 == part.last:
            data = {name: self._datasets[name] for name in wanted.data}
            workers, amp = self._recipe.workers, self._recipe.amp
            validation = evaluate(result, data, self._processes, wanted.batch_size, workers, amp)
        report = EpochReport(part.name, position.epoch + 1, position.iteration, position.mean_losses(), validation)
        for observer in self._observers:
            observer.epoch(report)
        position.next_epoch()
        self._checkpoint()
        if self._processes.rank == 0:
            self._folder.end_epoch(result)

    def _checkpoint(self) -> None:
        if self._processes.rank == 0:
            ema = {} if self._ema is None else self._ema.state_dict()
            optimizer = optimizer_tensors(self._optimizer, self._names)
            checkpoint = Checkpoint(self._model.state_dict(), optimizer, ema, self._position)
            save_checkpoint(self._folder.checkpoint, checkpoint, self._recipe.as_dict())
