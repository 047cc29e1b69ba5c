"""A step of a recipe: losses, optimizer, learning rate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

OPTIMIZERS = ("sgd", "adamw", "adam")
SCHEDULES = ("step", "cosine")

_TERM = re.compile(r"(?:(?P<weight>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?) *\* *)?(?P<name>\w+)")


@dataclass(frozen=True)
class Optimizer:
    """The optimizer.

    Attributes:
        name: "sgd"; "adam", whose weight decay is part of the gradient; or "adamw", whose weight decay is not.
        lr: learning rate at the start of the step, or after its warm-up.
        momentum: of SGD; β₁ of the others.
        weight_decay: of every parameter.
    """

    name: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        one_of("name", self.name, OPTIMIZERS)
        check("lr", self.lr, 0 < self.lr < math.inf, "a number above 0")
        check("momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number of at least 0")


@dataclass(frozen=True)
class Schedule:
    """The learning rate after e epochs of a step of E, e counting parts of an epoch.

    Attributes:
        name: "step": lr · factor^⌊e / every⌋; "cosine": lr · (1 + cos(π e / E)) / 2.
        every, factor: used by "step".
        warmup: share of the step in which the learning rate first rises from 0 to lr, linearly; e and E are then those
            of the rest.
    """

    name: str = "step"
    every: int = 10
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        one_of("name", self.name, SCHEDULES)
        check("every", self.every, self.every >= 1, "an integer of at least 1")
        check("factor", self.factor, 0 < self.factor <= 1, "a number in (0, 1]")
        check("warmup", self.warmup, 0 <= self.warmup < 1, "a number in [0, 1)")


@dataclass(frozen=True)
class Step:
    """One step of the training strategy. It starts with the weights of the step before and a new optimizer.

    Attributes:
        losses: for each data set of the step its loss, by a name that the task knows, or a sum of several, as
            "l1 + 0.1*high_frequency". A batch has items of one data set; the batches of all are shuffled together.
        epochs: passes over all items of the step.
        batch_size: items per update of the weights, of all processes together.
        accumulate: parts of a process's share of the batch that are computed one after the other, for less memory.
            Batch normalisation, and a loss that compares the items of a batch, see one part at a time.
        freeze_backbone: short for a factor of 0 for "backbone".
        lr_factors: factors of the learning rate for the parameters whose names begin so, see `run/rates.py`;
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
        check("losses", self.losses, len(self.losses) > 0, "a loss for at least one data set")
        for name, loss in self.losses.items():
            readable = all(_TERM.fullmatch(term.strip()) for term in loss.split("+"))
            check(f"losses.{name}", loss, readable, "a name, or a sum such as l1 + 0.1*high_frequency")
        for name in ("epochs", "batch_size", "accumulate"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "an integer of at least 1")
        whole = self.batch_size % self.accumulate == 0
        check("accumulate", self.accumulate, whole, f"a divisor of batch_size, {self.batch_size}")
        for name, factor in self.lr_factors.items():
            check(f"lr_factors.{name}", factor, 0 <= factor < math.inf, "a number of at least 0")

    def terms(self, source: str) -> dict[str, float]:
        """The losses of a data set and their weights."""
        found = [_TERM.fullmatch(term.strip()) for term in self.losses[source].split("+")]
        return {term["name"]: float(term["weight"] or 1) for term in found if term}

    def factors(self) -> dict[str, float]:
        """`lr_factors`, with that of a frozen backbone."""
        return {**({"backbone": 0.0} if self.freeze_backbone else {}), **self.lr_factors}


def check(name: str, value: object, holds: bool, wanted: str) -> None:
    """Raise ValueError for a field unless it holds what is wanted."""
    if not holds:
        raise ValueError(f"{name}: got {value!r}, want {wanted}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a field that has none of the values it can have."""
    check(name, value, value in choices, f"one of {', '.join(choices)}")
