"""Task: everything task-specific that the trainer needs. Every task's data sets and networks are built here.

A data set gives `dataset[i]`, a tuple of tensors: images, float32 in [0, 1], then the targets. The random choices of
item i in epoch e depend on (seed, e, i) alone; `set_epoch(e)` tells a data set the epoch.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastiqa.models import create_model
from fastiqa.models.registry import model_class
from fastiqa.training.config.fields import booleans
from fastiqa.training.config.settings import Model

Items = Dataset[tuple[Tensor, ...]]


class DataOptions(ABC):
    """The options of one kind of data set: a dataclass whose fields are the YAML keys, with their defaults.

    Types and ranges are checked by the reader and the data set that get the values.
    """

    @abstractmethod
    def build(self, kind: str) -> Items:
        """The data set; `kind` is the name that the recipe asked for. Raises OSError, TypeError or ValueError."""

    @classmethod
    def names(cls) -> list[str]:
        """The options in the order of messages: those that only this kind has, then those of its base class."""
        fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # subclasses are dataclasses
        return [name for base in cls.__mro__ for name in inspect.get_annotations(base) if name in fields]

    @classmethod
    def required(cls) -> list[str]:
        """The options without a default."""
        missing = dataclasses.MISSING
        return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]  # type: ignore[arg-type]


@dataclass(frozen=True)
class ItemLayout:
    """The tensors of an item: inputs of one shape, then one or more targets.

    Its functions are functions of a module, so that it can be sent to the processes that read.

    Attributes:
        noun: the word for an item in messages.
        inputs: names of the inputs.
        images: images in an item.
        target_error: (*targets) → the reason why the targets are refused, or None.
    """

    noun: str
    inputs: tuple[str, ...]
    images: int
    target_error: Callable[..., str | None]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        item: the layout of its items.
        kinds: kinds of data sets, by the names that recipes use.
        losses: names of the losses.
        build_network: builds the network of a recipe. Raises OSError, TypeError or ValueError.
        module: the module that a step trains, made from the network: inputs → output.
        item_losses: (one of `losses`, output, *targets) → the loss of each item, (N,), float32.
        rows: (output, *targets) → the numbers that a validation keeps of each item, (N, K).
        summary: the rows of a data set, (M, K), float64 → its values by name, the most telling one first.
        save: writes the network that a run ends with to a `.safetensors` path.
        unused_parameters: whether its losses may leave parameters without a gradient, such as those of a head whose
            loss the recipe does not ask for.
    """

    item: ItemLayout
    kinds: Mapping[str, type[DataOptions]]
    losses: tuple[str, ...]
    build_network: Callable[[Model], nn.Module]
    module: Callable[[nn.Module], nn.Module]
    item_losses: Callable[..., Tensor]
    rows: Callable[..., Tensor]
    summary: Callable[[Tensor], dict[str, float]]
    save: Callable[[nn.Module, Path], None]
    unused_parameters: bool = False

    def data_options(self, kind: str, /, **options: Any) -> DataOptions:
        """The options of a data set, on/off/yes/no as booleans where the default is one.

        Raises: ValueError for an unknown kind, and an unknown or missing option.
        """
        if kind not in self.kinds:
            raise ValueError(f"kind: got {kind!r}, want one of {', '.join(self.kinds)}")
        of_kind = self.kinds[kind]
        names = of_kind.names()
        for name in options:
            if name not in names:
                raise ValueError(f"{name}: unknown option of kind {kind!r}, want one of {', '.join(names)}")
        for name in of_kind.required():
            if name not in options:
                raise ValueError(f"{name}: missing, kind {kind!r} needs it")
        return of_kind(**booleans(options, of_kind))

    def dataset(self, kind: str, /, *, seed: int = 0, **options: Any) -> Items:
        """Build a data set.

        Args:
            kind: one of `kinds`.
            seed: of its random choices.
            options: the fields of that kind's dataclass.

        Raises: ValueError for an unknown kind, an unknown or missing option, and whatever the kind refuses.

        Example:
            >>> from fastiqa.training.tasks import TASKS
            >>> len(TASKS["comparison"].dataset("random", items=8))
            8
        """
        return self.data_options(kind, seed=seed, **options).build(kind)

    def total_loss(self, terms: Mapping[str, float], output: Any, targets: Sequence[Tensor]) -> Tensor:
        """The weighted sum of losses of each item, (N,); `terms` are their weights by name."""
        losses = [weight * self.item_losses(name, output, *targets) for name, weight in terms.items()]
        return torch.stack(losses).sum(0)


def blocks_of(dataset: Items) -> Sequence[Sequence[int]]:
    """The indices of a data set's items, in groups that stay together: those of its attribute `blocks`, else single."""
    length: int = len(dataset)  # type: ignore[arg-type]  # Dataset itself has no length
    return getattr(dataset, "blocks", [[index] for index in range(length)])


def registered_network(model: Model) -> nn.Module:
    """The network of a recipe from `fastiqa.create_model`. Raises OSError, TypeError or ValueError as that does."""
    return create_model(
        model.name,
        model.pretrained or False,
        pretrained_backbone=model.pretrained_backbone,
        pretrained_dan=model.pretrained_dan,
        **booleans(model.options, model_class(model.name)),
    )
