"""Builds a run's network and data sets, and checks them before its first batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fastiqa.common import limits
from fastiqa.models.checkpoints import backbone_prefix
from fastiqa.training.config.fields import RecipeError
from fastiqa.training.recipes.recipe import Recipe
from fastiqa.training.run.optimizer import factor_of, factors_error
from fastiqa.training.tasks import TASKS, Items

# Limits of a recipe's network: 4 GB in float32, forty times a PRFNet.
MOST_TENSORS, MOST_NUMBERS = 20_000, 1_000_000_000


def build_model(recipe: Recipe) -> nn.Module:
    """The network with its initial weights, which the seed decides. Raises RecipeError."""
    torch.manual_seed(recipe.seed)
    try:
        with limits.limited(MOST_TENSORS, MOST_NUMBERS):
            return TASKS[recipe.task].build_network(recipe.model)
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {error}") from error


def build_datasets(recipe: Recipe, given: Mapping[str, Items]) -> dict[str, Items]:
    """The data sets that the steps and the validation name; `given` ones replace the recipe's. Raises RecipeError."""
    names = [name for step in recipe.steps.values() for name in step.losses]
    return {
        name: given[name] if name in given else _build_dataset(name, recipe)
        for name in dict.fromkeys([*names, *recipe.validation.data])
    }


def _build_dataset(name: str, recipe: Recipe) -> Items:
    options = {"seed": recipe.seed, **recipe.data[name]}
    if "kind" not in options:
        raise RecipeError(f"data.{name}.kind: missing")
    try:
        return TASKS[recipe.task].dataset(options.pop("kind"), **options)
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"data.{name}: {error}") from error


def check_parts(recipe: Recipe, built: Mapping[str, Items]) -> None:
    """Raise RecipeError if training and validation parts of a set share a reference.

    They do when their split seeds or shares differ. Naming one part in both is allowed.
    """
    for tested in recipe.validation.data:
        for trained in dict.fromkeys(name for step in recipe.steps.values() for name in step.losses):
            ours, theirs = recipe.data.get(trained, {}), recipe.data.get(tested, {})
            if ours.get("kind") != theirs.get("kind") or ours.get("part", "all") == theirs.get("part", "all"):
                continue
            if shared := sorted(_references(built[trained]) & _references(built[tested])):
                got = f"got {len(shared)} references that data.{trained} has too, such as {shared[0]}"
                raise RecipeError(f"data.{tested}: {got}, want other ones: one split_seed, train and val in both")


def check_types(recipe: Recipe, built: Mapping[str, Items], model: nn.Module) -> None:
    """Raise RecipeError if the data has more types of distortion than the network's head, or data sets differ in them.

    A step trains one head on all its data sets, so a type's number must mean the same in all of them.
    """
    for name, step in recipe.steps.items():
        types = {source: _types(built[source]) for source in step.losses if "distortion_type" in step.terms(source)}
        for source, found in types.items():
            where = f"data.{source}: got {len(found)} types of distortion, {_shortened(found)}"
            if found != next(iter(types.values())):
                other = next(iter(types))
                raise RecipeError(f"{where}, want those of data.{other}, which steps.{name} trains the same head on")
            heads = getattr(model, "options", {}).get("distortion_types", 0)
            if len(found) > heads > 0:
                raise RecipeError(f"{where}, want at most the {heads} of model.options.distortion_types")


def check_features(recipe: Recipe, built: Mapping[str, Items], model: nn.Module) -> None:
    """Raise RecipeError for cached features that are not those of the network's backbone, or of one that is trained."""
    cached = {name: dataset for name, dataset in built.items() if hasattr(dataset, "model_error")}
    for name, dataset in cached.items():
        if reason := dataset.model_error(model):
            raise RecipeError(f"data.{name}: {reason}")
    if not cached:
        return
    prefix = backbone_prefix(model)
    for name, step in recipe.steps.items():
        trained = [key for key, _ in model.named_parameters() if factor_of(key, step.factors()) != 0]
        if any(key.startswith(prefix) for key in trained):
            setting, value = ("freeze_backbone", "true") if prefix == "backbone." else ("lr_factors", "{qen: 0}")
            got = f"got a backbone that is trained, with the cached features of data.{next(iter(cached))}"
            raise RecipeError(f"steps.{name}.{setting}: {got}, want {value} in every step")


def _types(dataset: Items) -> list[str]:
    return list(getattr(dataset, "types", ()))


def _shortened(names: list[str]) -> str:
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names) or "none"


def _references(dataset: Items) -> set[str]:
    """The references of a data set of rated images."""
    return {record.reference for record in getattr(dataset, "records", ()) if hasattr(record, "reference")}


def check_lr_factors(recipe: Recipe, model: nn.Module) -> None:
    """Raise RecipeError for factors of parameters that the network lacks."""
    for name, step in recipe.steps.items():
        if reason := factors_error(model, step.factors()):
            raise RecipeError(f"steps.{name}.lr_factors: {reason}")


def check_batches(recipe: Recipe, built: Mapping[str, Items], processes: int) -> None:
    """Raise RecipeError for a batch that the processes cannot share, and for data sets without a whole batch."""
    items = f"{TASKS[recipe.task].item.noun}s"
    for name, step in recipe.steps.items():
        if step.batch_size % (processes * step.accumulate):
            divisor = f"a multiple of {processes} processes times accumulate {step.accumulate}"
            raise RecipeError(f"steps.{name}.batch_size: got {step.batch_size}, want {divisor}")
        for source in step.losses:
            length = len(built[source])  # type: ignore[arg-type]  # a Dataset has a length
            if length < step.batch_size:
                want = f"at least the {step.batch_size} of a batch of steps.{name}"
                raise RecipeError(f"data.{source}: got {length} {items}, want {want}")
    for source in recipe.validation.data:
        if (length := len(built[source])) < processes:  # type: ignore[arg-type]
            want = f"at least one to validate with in each of {processes} processes"
            raise RecipeError(f"data.{source}: got {length} {items}, want {want}")
