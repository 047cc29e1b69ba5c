"""Task: what the trainer does not know of what it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastiqa.training.tasks.datasets import Kind

if TYPE_CHECKING:
    from fastiqa.training.recipes.recipe import Model


@dataclass(frozen=True)
class ItemLayout:
    """What an item of a data set is: a tuple of tensors, first inputs of one shape, then one target or several.

    Functions of a module alone, so that it can be sent to the processes that read.

    Attributes:
        noun: what messages call an item.
        inputs: names of the inputs.
        images: images in an item.
        refused: of the targets what is wrong with them; None where nothing is.
    """

    noun: str
    inputs: tuple[str, ...]
    images: int
    refused: Callable[..., str | None]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        item: what its data sets give.
        kinds: of data sets, by the names that recipes use.
        losses: names of the losses.
        network: builds the network of a recipe. Raises OSError, TypeError or ValueError.
        module: of a network what a step trains, inputs → output.
        losses_of: (one of `losses`, output, *targets) → the loss of each item, (N,), float32.
        rows: (output, *targets) → what a validation notes of each item, (N, K).
        summary: the rows of a data set, (M, K), float64 → its values by name, the most telling one first.
        save: writes what a run ends with: network and path, a `.safetensors`.
        partial: whether its losses may leave parameters without a gradient, as those of heads with a loss of their own.
    """

    item: ItemLayout
    kinds: Mapping[str, Kind]
    losses: tuple[str, ...]
    network: Callable[[Model], nn.Module]
    module: Callable[[nn.Module], nn.Module]
    losses_of: Callable[..., Tensor]
    rows: Callable[..., Tensor]
    summary: Callable[[Tensor], dict[str, float]]
    save: Callable[[nn.Module, Path], None]
    partial: bool = False

    def total_loss(self, terms: Mapping[str, float], output: Any, targets: Sequence[Tensor]) -> Tensor:
        """The weighted sum of losses, by name, of each item, (N,)."""
        losses = [weight * self.losses_of(name, output, *targets) for name, weight in terms.items()]
        return torch.stack(losses).sum(0)
