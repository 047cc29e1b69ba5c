"""Checkpoints of a run: one safetensors file, with everything but tensors as JSON in its metadata.

    model.<key>                     the network's state dict
    optimizer.<parameter>.<state>   the optimizer's state
    ema.<key>                       the averaged network, if the run averages
    metadata "fastiqa.run"          {"recipe": ..., "position": ..., "versions": ...}

Random states need no place: all random numbers depend on the recipe's seed and the position alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fastiqa import __version__
from fastiqa.common import limits
from fastiqa.common.files import replacing
from fastiqa.common.weight_files import read_weights
from fastiqa.training.config.fields import RecipeError
from fastiqa.training.recipes.recipe import differences
from fastiqa.training.recipes.recipe_file import with_defaults

METADATA = "fastiqa.run"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or a run cannot resume from it. One line: the file and the reason."""


@dataclass
class Position:
    """A position in a run.

    Attributes:
        epoch: the epoch under way, counted over the whole run from 0.
        batch: batches of this epoch that are done.
        iteration: batches done since the start of the run.
        losses: for each data set the sum of this epoch's batch losses, and their number.
    """

    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, source: str, loss: float) -> None:
        """Count a batch."""
        total, count = self.losses.get(source, (0.0, 0))
        self.losses[source] = (total + loss, count + 1)
        self.batch += 1
        self.iteration += 1

    def next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.epoch, self.batch, self.losses = self.epoch + 1, 0, {}

    def mean_losses(self) -> dict[str, float]:
        """The mean loss of this epoch's batches, by data set."""
        return {name: total / count for name, (total, count) in self.losses.items()}


class Checkpoint(NamedTuple):
    """The contents of a checkpoint, its tensors on the CPU; `optimizer` is as of `optimizer_tensors`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ema: dict[str, Tensor]
    position: Position


def save_checkpoint(path: Path, checkpoint: Checkpoint, recipe: Mapping[str, Any]) -> None:
    """Replace a run's checkpoint, all or nothing.

    Raises: CheckpointError if it cannot be written, as on a full disk; the older one stays.
    """
    tensors = {
        f"{group}.{key}": tensor.detach().cpu().contiguous()
        for group in ("model", "optimizer", "ema")
        for key, tensor in getattr(checkpoint, group).items()
    }
    versions = {"fastiqa": __version__, "torch": str(torch.__version__)}
    run = {"recipe": recipe, "position": dataclasses.asdict(checkpoint.position), "versions": versions}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, {METADATA: json.dumps(run)})
    except (OSError, SafetensorError) as error:
        kept = "the older checkpoint is as it was" if path.exists() else "there is none"
        raise CheckpointError(f"{path}: not written: {error}; {kept}") from error


def read_checkpoint(path: Path, recipe: Mapping[str, Any], model: Mapping[str, Tensor]) -> Checkpoint:
    """Read a checkpoint to resume a run.

    Args:
        path: the file.
        recipe: the run's recipe, as of `Recipe.as_dict`. Keys that an older version did not know count as their
            defaults.
        model: the state dict of the run's network.

    Raises: CheckpointError for a file that is truncated or foreign, of another network, naming the keys that differ, or
        of another task or recipe, naming the fields that differ.
    """
    try:
        tensors, metadata = read_weights(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    try:
        run = limits.read_json(metadata[METADATA])
        saved, position = run["recipe"], Position(**run["position"])
        position.losses = {name: (total, count) for name, (total, count) in position.losses.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of fastiqa train: no {METADATA} in its metadata") from error
    try:
        saved = with_defaults(saved)
    except RecipeError as error:
        raise CheckpointError(f"{path}: of another version of fastiqa: {error}") from error
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "ema": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    if saved["task"] != recipe["task"]:
        raise CheckpointError(f"{path}: of another task: got {saved['task']}, want {recipe['task']}")
    if differing := _differing(groups["model"], model):
        raise CheckpointError(f"{path}: of another network: {_listed(differing)}")
    if changed := differences(saved, recipe):
        raise CheckpointError(f"{path}: of another recipe: {_listed(changed)}")
    return Checkpoint(groups["model"], groups["optimizer"], groups["ema"], position)


def _differing(saved: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    """The differences between a saved state dict and the network's."""
    missing = [f"{key} is missing" for key in want if key not in saved]
    unexpected = [f"{key} has no place" for key in saved if key not in want]
    pairs = [(key, saved[key].shape, want[key].shape) for key in want if key in saved]
    shapes = [f"{key} is {tuple(got)}, want {tuple(size)}" for key, got, size in pairs if got != size]
    return missing + unexpected + shapes


def _listed(items: list[str], limit: int = 8) -> str:
    rest = f"; and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + rest
