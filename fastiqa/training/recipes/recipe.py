"""Recipe: the dataclass of everything that decides the final weights of a training run.

A field's name is its YAML key; `recipe_file.py` reads the YAML. A key that a recipe leaves out has the default below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastiqa.training.config.fields import check_choice, require
from fastiqa.training.config.settings import Model, Step, Validation
from fastiqa.training.tasks import TASKS

# Fields that change a run's speed and reports, not its results.
WITHOUT_EFFECT = ("workers", "checkpoint_every", "log_every", "tensorboard")

MOST_WORKERS = 1024


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        data: data sets by name: each its `kind` and that kind's options, the fields of the dataclasses in
            `fastiqa.training.tasks`.
        steps: the steps by name, in order.
        model: the network.
        task: "comparison" of two images, "quality" of one, or "contrastive" pre-training, see `fastiqa.training.tasks`.
        validation: the validation at the end of an epoch.
        seed: decides the initial weights, the order of the items, dropout and the random choices of the data sets.
        amp: compute in bfloat16 under autocast; weights and their updates stay float32.
        ema: decay of an exponential moving average of weights and statistics; the run then ends with the average.
        channels_last: keep convolution weights, and so feature maps, channels-last.
        workers: processes that read images, for each training process; 0 reads in the training process.
        checkpoint_every: updates between checkpoints; the end of an epoch always has one.
        log_every: updates between two lines of the log.
        tensorboard: log for TensorBoard too.

    Raises: ValueError naming the key, for an unknown task, loss or data set and for a value out of its range.
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
        check_choice("task", self.task, tuple(TASKS))
        require("steps", self.steps, len(self.steps) > 0, "at least one step")
        for name, step in self.steps.items():
            for source in step.losses:
                for loss in step.terms(source):
                    check_choice(f"steps.{name}.losses.{source}", loss, TASKS[self.task].losses)
        named = {f"steps.{name}.losses": tuple(step.losses) for name, step in self.steps.items()}
        for where, names in {**named, "validation.data": self.validation.data}.items():
            for name in names:
                require(where, name, name in self.data, f"a data set of the recipe: {', '.join(self.data) or 'none'}")
        require("ema", self.ema, self.ema is None or 0 < self.ema < 1, "a decay in (0, 1)")
        require("seed", self.seed, self.seed >= 0, "an integer of at least 0")
        require("workers", self.workers, 0 <= self.workers <= MOST_WORKERS, f"an integer from 0 to {MOST_WORKERS:,}")
        for name in ("checkpoint_every", "log_every"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")

    def timeline(self) -> Iterator[ScheduledStep]:
        """The steps, each with its epochs in the run."""
        first = 0
        for name, step in self.steps.items():
            yield ScheduledStep(name, step, first, first + step.epochs)
            first += step.epochs

    def as_dict(self) -> dict[str, Any]:
        """The recipe as dictionaries, lists, numbers, texts, booleans and None, as JSON and YAML hold them."""
        plain: dict[str, Any] = _plain(self)
        return plain


class ScheduledStep(NamedTuple):
    """A step and its epochs: from `first` up to, not including, `last`, counted over the whole run."""

    name: str
    step: Step
    first: int
    last: int


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between two recipes, as "key was X, is Y".

    Both are dictionaries as of `Recipe.as_dict`. Keys without effect on the weights do not count.
    """
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
