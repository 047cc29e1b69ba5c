"""A recipe: everything that decides the weights a training run ends with, as dataclasses.

The YAML form of each field is its name; `recipe_file.py` reads it. What a recipe leaves out has the
defaults below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastiqa.training.config.settings import Step, check, one_of
from fastiqa.training.tasks import TASKS

# Fields of a recipe that change how fast a run is and what it reports, not what it computes.
WITHOUT_EFFECT = ("workers", "checkpoint_every", "log_every", "tensorboard")

MOST_WORKERS = 1024


class RecipeError(ValueError):
    """A recipe that cannot be used. The message is one line: the file, the key, what came and what was wanted."""


@dataclass(frozen=True)
class Model:
    """The network: for most tasks as `fastiqa.create_model` takes it.

    Attributes:
        name: one of `fastiqa.list_models()`; of the task "contrastive" a backbone, see `fastiqa.training.tasks`.
        options: of its constructor.
        pretrained: a file of weights of the whole network.
        pretrained_backbone: a file of its backbone.
        pretrained_dan: a file of MFENet's distortion-aware branch, as contrastive pre-training writes it.
    """

    name: str = "prfnet"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    pretrained_backbone: str | None = None
    pretrained_dan: str | None = None


@dataclass(frozen=True)
class Validation:
    """What is computed at the end of an epoch, with the averaged weights where there are any.

    Attributes:
        data: names of data sets.
        batch_size: items at a time; 1 for images of several sizes.
        every: epochs from one validation to the next; the last epoch of a step always has one.
    """

    data: tuple[str, ...] = ()
    batch_size: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "every"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        data: data sets by name: each its `kind` and the options of that kind, see `fastiqa.training.tasks.datasets`.
        steps: by name, in order.
        model: the network.
        task: what it is trained for: "comparison" of two images, "quality" of one, or "contrastive" pre-training, see
            `fastiqa.training.tasks`.
        validation: what is computed at the end of an epoch.
        seed: of the initial weights, the order of the items, dropout and the random choices of the data sets.
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
    task: str = "comparison"
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
        one_of("task", self.task, tuple(TASKS))
        check("steps", self.steps, len(self.steps) > 0, "at least one step")
        for name, step in self.steps.items():
            for source in step.losses:
                for loss in step.terms(source):
                    one_of(f"steps.{name}.losses.{source}", loss, TASKS[self.task].losses)
        wanted = {f"steps.{name}.losses": tuple(step.losses) for name, step in self.steps.items()}
        for where, names in {**wanted, "validation.data": self.validation.data}.items():
            for name in names:
                check(where, name, name in self.data, f"a data set of the recipe: {', '.join(self.data) or 'none'}")
        check("ema", self.ema, self.ema is None or 0 < self.ema < 1, "a decay in (0, 1)")
        check("seed", self.seed, self.seed >= 0, "an integer of at least 0")
        check("workers", self.workers, 0 <= self.workers <= MOST_WORKERS, f"an integer from 0 to {MOST_WORKERS:,}")
        for name in ("checkpoint_every", "log_every"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")

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
