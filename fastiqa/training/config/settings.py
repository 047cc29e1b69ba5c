"""The settings of a recipe that are the same for every task: network, validation, step, optimizer, learning rate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from fastiqa.training.config.fields import check_choice, require

OPTIMIZERS = ("sgd", "adamw", "adam")
SCHEDULES = ("step", "cosine")

_TERM = re.compile(r"(?:(?P<weight>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?) *\* *)?(?P<name>\w+)")


@dataclass(frozen=True)
class Model:
    """The network. The tasks "comparison" and "quality" build it with `fastiqa.create_model`.

    Attributes:
        name: one of `fastiqa.list_models()`; for the task "contrastive" a backbone, see `fastiqa.training.tasks`.
        options: arguments of its constructor.
        pretrained: a file of weights for the whole network.
        pretrained_backbone: a file of weights for its backbone; "imagenet" as in `create_model`.
        pretrained_dan: a file of weights for MFENet's distortion-aware branch, as contrastive pre-training writes it.
    """

    name: str = "prfnet"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    pretrained_backbone: str | None = None
    pretrained_dan: str | None = None


@dataclass(frozen=True)
class Validation:
    """The validation at the end of an epoch, with the averaged weights if the run averages any.

    Attributes:
        data: names of data sets.
        batch_size: items in a batch; 1 for images of several sizes.
        every: epochs from one validation to the next. The last epoch of a step always has one.
    """

    data: tuple[str, ...] = ()
    batch_size: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "every"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")


@dataclass(frozen=True)
class Optimizer:
    """The optimizer.

    Attributes:
        name: "sgd"; "adam", which adds the weight decay to the gradient; or "adamw", which does not.
        lr: learning rate at the start of the step, or after its warm-up.
        momentum: SGD's momentum; β₁ of the others.
        weight_decay: the decay of every parameter.
    """

    name: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_choice("name", self.name, OPTIMIZERS)
        require("lr", self.lr, 0 < self.lr < math.inf, "a number above 0")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number of at least 0")


@dataclass(frozen=True)
class Schedule:
    """The learning rate after e epochs of a step of E epochs; e counts parts of an epoch.

    Attributes:
        name: "step": lr · factor^⌊e / every⌋; "cosine": lr · (1 + cos(π e / E)) / 2.
        every, factor: used by "step".
        warmup: share of the step in which the learning rate first rises from 0 to lr, linearly. e and E then count the
            rest of the step.
    """

    name: str = "step"
    every: int = 10
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_choice("name", self.name, SCHEDULES)
        require("every", self.every, self.every >= 1, "an integer of at least 1")
        require("factor", self.factor, 0 < self.factor <= 1, "a number in (0, 1]")
        require("warmup", self.warmup, 0 <= self.warmup < 1, "a number in [0, 1)")


@dataclass(frozen=True)
class Step:
    """One step of the training strategy. It starts with the weights of the previous step and a new optimizer.

    Attributes:
        losses: the loss of each data set of the step, by a name that the task knows, or a sum such as
            "l1 + 0.1*high_frequency". A batch holds items of one data set; the batches of all are shuffled together.
        epochs: passes over all items of the step.
        batch_size: items per update of the weights, in all processes together.
        accumulate: parts of a process's share of the batch, computed one after the other to save memory. Batch
            normalisation, and a loss that compares the items of a batch, see one part at a time.
        freeze_backbone: short for `lr_factors: {backbone: 0}`.
        lr_factors: factors of the learning rate by the beginning of parameter names, see `run/optimizer.py`;
            0 freezes weights and statistics.
    """

    losses: dict[str, str]
    epochs: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 16
    accumulate: int = 1
    freeze_backbone: bool = False
    lr_factors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require("losses", self.losses, len(self.losses) > 0, "a loss for at least one data set")
        for name, loss in self.losses.items():
            readable = all(_TERM.fullmatch(term.strip()) for term in loss.split("+"))
            require(f"losses.{name}", loss, readable, "a name, or a sum such as l1 + 0.1*high_frequency")
        for name in ("epochs", "batch_size", "accumulate"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")
        whole = self.batch_size % self.accumulate == 0
        require("accumulate", self.accumulate, whole, f"a divisor of batch_size, {self.batch_size}")
        for name, factor in self.lr_factors.items():
            require(f"lr_factors.{name}", factor, 0 <= factor < math.inf, "a number of at least 0")

    def terms(self, source: str) -> dict[str, float]:
        """The losses of a data set, each with its weight."""
        found = [_TERM.fullmatch(term.strip()) for term in self.losses[source].split("+")]
        return {term["name"]: float(term["weight"] or 1) for term in found if term}

    def factors(self) -> dict[str, float]:
        """`lr_factors`, with 0 for a frozen backbone."""
        return {**({"backbone": 0.0} if self.freeze_backbone else {}), **self.lr_factors}
