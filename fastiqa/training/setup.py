"""What a run needs before its first batch: the network, the data sets, and batches that can be cut."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastiqa.models import create_model
from fastiqa.training.datasets import Triplets, datasets
from fastiqa.training.recipe import Recipe, RecipeError


def build_model(recipe: Recipe) -> nn.Module:
    """The network with its initial weights, a function of the seed. Raises RecipeError."""
    wanted = recipe.model
    torch.manual_seed(recipe.seed)
    try:
        return create_model(
            wanted.name, wanted.pretrained or False, pretrained_backbone=wanted.pretrained_backbone, **wanted.options
        )
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {error}") from error


def build_datasets(recipe: Recipe, given: Mapping[str, Triplets]) -> dict[str, Triplets]:
    """The data sets that the steps and the validation name, those given first. Raises RecipeError."""
    names = [name for step in recipe.steps.values() for name in step.losses]
    return {
        name: given[name] if name in given else _build_dataset(name, recipe)
        for name in dict.fromkeys([*names, *recipe.validation.data])
    }


def _build_dataset(name: str, recipe: Recipe) -> Triplets:
    options = dict(recipe.data[name])
    if "kind" not in options:
        raise RecipeError(f"data.{name}.kind: missing")
    try:
        return datasets(**{"seed": recipe.seed, **options})
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"data.{name}: {error}") from error


def check_batches(recipe: Recipe, built: Mapping[str, Triplets], processes: int) -> None:
    """Raise RecipeError for a batch that cannot be cut among the processes, and for data sets without a whole batch."""
    for name, step in recipe.steps.items():
        if step.batch_size % (processes * step.accumulate):
            divisor = f"a multiple of {processes} processes times accumulate {step.accumulate}"
            raise RecipeError(f"steps.{name}.batch_size: got {step.batch_size}, want {divisor}")
        for source in step.losses:
            length = len(built[source])  # type: ignore[arg-type]  # a Dataset has a length
            if length < step.batch_size:
                wanted = f"at least the {step.batch_size} of a batch of steps.{name}"
                raise RecipeError(f"data.{source}: got {length} triplets, want {wanted}")
    for source in recipe.validation.data:
        if len(built[source]) == 0:  # type: ignore[arg-type]
            raise RecipeError(f"data.{source}: got no triplets, want at least one to validate with")
