"""evaluate_run, evaluate_weights: a trained network's correlations on rated images, by the papers' protocol.

On its training set, a run is evaluated on the test images of its own split, whatever the seed; on any other data set,
on all images (cross-database). So no training image counts.

This stands above `run` and `evaluation`: it reads the recipe of a finished run to know its split, view and data sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fastiqa.data import SETS, RatedDataset, RatedImage, TestCrops, read_rated
from fastiqa.data.rated.dataset import RatedTransform, whole_image
from fastiqa.evaluation.networks import mean_score
from fastiqa.evaluation.rated import RatedEvaluation, evaluate_rated
from fastiqa.models import load_model
from fastiqa.training.recipes.recipe import Recipe
from fastiqa.training.recipes.recipe_file import read_recipe

METHOD = "MFENet"  # the network of the task "quality"
SPLIT = ("official", "split_seed", "train", "val")  # the options that decide which image is in which part


@torch.inference_mode()
def evaluate_run(
    run: str | os.PathLike[str],
    dataset: str,
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    network: Callable[[Path], nn.Module] | None = None,
    on_image: Callable[[int, int], object] = lambda done, total: None,
) -> RatedEvaluation:
    """Evaluate the network that a run of ``fastiqa train`` wrote.

    Args:
        run: the run's folder. Its recipe gives the training sets, their split, and the view of an image at validation,
            which is used here too: crops, by default 25 of 224x224, or whole images. Images are resized first only on
            the recipe's own data set.
        dataset: a name in `fastiqa.data.SETS`.
        folder: the folder of that data set.
        device: the device of the network.
        network: makes a network in eval mode on that device from a file; None loads the file in float32.
        on_image: called with the number of images done and of all images.

    Returns: the evaluation, with the method "MFENet" and the run's split seed as its split.

    Raises:
        FileNotFoundError: no such run or data set.
        ValueError: another name; a run of another task, or one trained on the set's test part too; and as
            :func:`fastiqa.data.read_rated`.
        fastiqa.data.ImageError: an image cannot be read.
    """
    path = Path(run)
    recipe = read_recipe(path / "recipe.yaml")
    if recipe.task != "quality":
        raise ValueError(f"{path}: got a run of task {recipe.task!r}, want 'quality'")
    trained = [recipe.data[name] for step in recipe.steps.values() for name in step.losses]
    own = [options for options in trained if options["kind"] == dataset]
    images = _images(path, dataset, folder, own)
    view, file = _view(recipe, resized=bool(own)), path / "model.safetensors"
    scores = _scores(images, view, _network(file, device, network), device, on_image)
    return evaluate_rated(
        scores,
        images,
        method=METHOD,
        dataset=SETS[dataset].title,
        trained_on="" if own else " + ".join(dict.fromkeys(_title(options["kind"]) for options in trained)),
        split=str(next((options.get("split_seed", 0) for options in trained), 0)),
        opposite=_higher_is_better(trained) != SETS[dataset].scale.higher_is_better,
    )


@torch.inference_mode()
def evaluate_weights(
    file: str | os.PathLike[str],
    dataset: str,
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    network: Callable[[Path], nn.Module] | None = None,
    on_image: Callable[[int, int], object] = lambda done, total: None,
) -> RatedEvaluation:
    """Evaluate a network's file on all whole images of a data set, without knowing its training data.

    Arguments and errors are those of `evaluate_run`. The method is the file's name. Higher scores are assumed to be
    better, as ``fastiqa train`` teaches.
    """
    path = Path(file)
    images = read_rated(dataset, folder)
    scores = _scores(images, whole_image, _network(path, device, network), device, on_image)
    about = SETS[dataset]
    return evaluate_rated(
        scores,
        images,
        method=path.name,
        dataset=about.title,
        trained_on="unknown",
        split="all images",
        opposite=not about.scale.higher_is_better,
    )


def _network(file: Path, device: torch.device | str, make: Callable[[Path], nn.Module] | None) -> nn.Module:
    return make(file) if make is not None else load_model(file).to(device).float().eval()


def _scores(
    images: Sequence[RatedImage],
    view: RatedTransform,
    model: nn.Module,
    device: torch.device | str,
    on_image: Callable[[int, int], object],
) -> list[float]:
    """Each image's score, the mean over its crops."""
    scores: list[float] = []
    for crops, _ in DataLoader(RatedDataset(images, view)):
        scores.append(mean_score(model, crops.flatten(0, -4), device))
        on_image(len(scores), len(images))
    return scores


def _images(
    run: Path, dataset: str, folder: str | os.PathLike[str], own: Sequence[Mapping[str, Any]]
) -> list[RatedImage]:
    """The images that the run was not trained on; `own` are the options of its training sets of this name."""
    if not own:
        return read_rated(dataset, folder)
    split = {name: own[0][name] for name in SPLIT if name in own[0]}
    for options in own:
        if options.get("part", "all") in ("all", "test"):
            raise ValueError(f"{run}: trained on part {options.get('part', 'all')!r} of {dataset}, want 'train'")
        if {name: options[name] for name in SPLIT if name in options} != split:
            raise ValueError(f"{run}: trained on two splits of {dataset}, want one")
    return read_rated(dataset, folder, "test", **split)


def _view(recipe: Recipe, resized: bool) -> RatedTransform:
    """The view of an image at the run's validation: crops, or the whole image."""
    views = [recipe.data[name] for name in recipe.validation.data]
    if any(options.get("view") == "whole" for options in views):
        return whole_image
    fixed = next((options for options in views if options.get("view") == "fixed"), None)
    if fixed is None:
        return TestCrops()
    resize = fixed.get("resize") if resized else None
    return TestCrops(
        fixed.get("crops", 1), fixed.get("size", 224), recipe.seed, None if resize is None else (resize[0], resize[1])
    )


def _title(kind: str) -> str:
    return SETS[kind].title if kind in SETS else kind


def _higher_is_better(trained: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the training scores were better when higher: qualities are, a set's own scores need not be."""
    return all(options.get("scores") != "own" or SETS[options["kind"]].scale.higher_is_better for options in trained)
