"""A recipe: everything that decides the weights a training run ends with, as dataclasses.

The YAML form of each field is its name; `fastiqa.training.recipe_file` reads it. What a recipe leaves out has the
defaults below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LOSSES = ("bce", "mse")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine")

# Fields of a recipe that change how fast a run is and what it reports, not what it computes.
WITHOUT_EFFECT = ("workers", "checkpoint_every", "log_every", "tensorboard")


class RecipeError(ValueError):
    """A recipe that cannot be used. The message is one line: the file, the key, what came and what was wanted."""


@dataclass(frozen=True)
class Model:
    """The network, as `fastiqa.create_model` takes it.

    Attributes:
        name: one of `fastiqa.list_models()`.
        options: of its constructor.
        pretrained: a file of weights of the whole network.
        pretrained_backbone: a Res2Net-50 file.
    """

    name: str = "prfnet"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    pretrained_backbone: str | None = None


@dataclass(frozen=True)
class Optimizer:
    """The optimizer.

    Attributes:
        name: "sgd" or "adamw".
        lr: learning rate at the start of the step.
        momentum: of SGD; β₁ of AdamW.
        weight_decay: of every parameter.
    """

    name: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _one_of("name", self.name, OPTIMIZERS)
        _check("lr", self.lr, self.lr > 0, "a number above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "a number of at least 0")


@dataclass(frozen=True)
class Schedule:
    """The learning rate in epoch e of a step of E epochs.

    Attributes:
        name: "step": lr · factor^⌊e / every⌋; "cosine": lr · (1 + cos(π e / E)) / 2, e counting parts of an epoch.
        every, factor: used by "step".
    """

    name: str = "step"
    every: int = 10
    factor: float = 0.1

    def __post_init__(self) -> None:
        _one_of("name", self.name, SCHEDULES)
        _check("every", self.every, self.every >= 1, "an integer of at least 1")
        _check("factor", self.factor, 0 < self.factor <= 1, "a number in (0, 1]")


@dataclass(frozen=True)
class Step:
    """One step of the training strategy. It starts with the weights of the step before and a new optimizer.

    Attributes:
        losses: for each data set of the step its loss: "bce" (binary cross-entropy) or "mse" (mean squared error of the
            probability). A batch has triplets of one data set; the batches of all are shuffled together.
        epochs: passes over all triplets of the step.
        batch_size: triplets per update of the weights, of all processes together.
        accumulate: parts of a process's share of the batch that are computed one after the other, for less memory.
            Batch normalisation sees one part at a time.
        freeze_backbone: train the head alone: the backbone's weights and statistics stay as they are.
    """

    losses: dict[str, str]
    epochs: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 16
    accumulate: int = 1
    freeze_backbone: bool = False

    def __post_init__(self) -> None:
        _check("losses", self.losses, len(self.losses) > 0, "a loss for at least one data set")
        for name, loss in self.losses.items():
            _one_of(f"losses.{name}", loss, LOSSES)
        for name in ("epochs", "batch_size", "accumulate"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")
        whole = self.batch_size % self.accumulate == 0
        _check("accumulate", self.accumulate, whole, f"a divisor of batch_size, {self.batch_size}")


@dataclass(frozen=True)
class Validation:
    """What is computed at the end of an epoch, with the averaged weights where there are any.

    Attributes:
        data: names of data sets.
        batch_size: triplets at a time; 1 for images of several sizes.
        every: epochs from one validation to the next; the last epoch of a step always has one.
    """

    data: tuple[str, ...] = ()
    batch_size: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        data: data sets by name: each its `kind` and the options of that kind, see `fastiqa.training.datasets`.
        steps: by name, in order.
        model: the network.
        validation: what is computed at the end of an epoch.
        seed: of the initial weights, the order of the triplets, dropout and the random choices of the data sets.
        amp: compute in bfloat16 under autocast; weights and their updates stay float32.
        ema: decay of an exponential moving average of weights and statistics, which is what the run then ends with.
        channels_last: keep convolution weights, and so feature maps, channels-last.
        workers: processes that read images, for each training process; 0 reads in the training process.
        checkpoint_every: updates between checkpoints; the end of an epoch always has one.
        log_every: updates between two lines of the log.
        tensorboard: log for TensorBoard too.
    """

    data: dict[str, dict[str, Any]]
    steps: dict[str, Step]
    model: Model = field(default_factory=Model)
    validation: Validation = field(default_factory=Validation)
    seed: int = 0
    amp: bool = False
    ema: float | None = None
    channels_last: bool = False
    workers: int = 2
    checkpoint_every: int = 500
    log_every: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _check("steps", self.steps, len(self.steps) > 0, "at least one step")
        wanted = {f"steps.{name}.losses": tuple(step.losses) for name, step in self.steps.items()}
        for where, names in {**wanted, "validation.data": self.validation.data}.items():
            for name in names:
                _check(where, name, name in self.data, f"a data set of the recipe: {', '.join(self.data) or 'none'}")
        _check("ema", self.ema, self.ema is None or 0 < self.ema < 1, "a decay in (0, 1)")
        _check("seed", self.seed, self.seed >= 0, "an integer of at least 0")
        _check("workers", self.workers, self.workers >= 0, "an integer of at least 0")
        for name in ("checkpoint_every", "log_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")

    def timeline(self) -> Iterator[Part]:
        """The steps with their place among the epochs of the run."""
        first = 0
        for name, step in self.steps.items():
            yield Part(name, step, first, first + step.epochs)
            first += step.epochs

    def as_dict(self) -> dict[str, Any]:
        """The recipe in the types of JSON and YAML."""
        plain: dict[str, Any] = _plain(self)
        return plain


class Part(NamedTuple):
    """A step and its epochs, from `first` up to but not including `last`, counted over the whole run."""

    name: str
    step: Step
    first: int
    last: int


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between two recipes as dictionaries, but for those without effect on the weights."""
    before, now = dict(_flat(saved)), dict(_flat(asked))
    keys = [key for key in {**before, **now} if key.partition(".")[0] not in WITHOUT_EFFECT]
    nothing = object()
    changed = [key for key in keys if before.get(key, nothing) != now.get(key, nothing)]
    return [f"{key} was {_shown(before, key)}, is {_shown(now, key)}" for key in changed]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {value!r}, want {wanted}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(name, value, value in choices, f"one of {', '.join(choices)}")
