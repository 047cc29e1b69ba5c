"""The folder of a run.

recipe.yaml               the recipe in full
checkpoint.safetensors    what the run goes on from
model.safetensors         the network after the last finished epoch, for `fastiqa.load_model`, or of contrastive
                          pre-training its backbone, for `load_backbone`; the averaged one where there is one
log.jsonl                 see `fastiqa.training.logs`
curve.png                 the learning curve, where matplotlib is installed
tensorboard/              where the recipe asks for it
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from fastiqa._files import remove_unfinished, replacing
from fastiqa.training.checkpoint import CheckpointError, Position
from fastiqa.training.curve import draw_curve
from fastiqa.training.logs import JSONLog, Observer, TensorBoardLog
from fastiqa.training.recipe import Recipe
from fastiqa.training.recipe_file import as_yaml


class RunFolder:
    """Names of the files of a run, and what is done with them by the first process alone.

    Args:
        path: the folder.
        save: writes the network that the run ends with.
    """

    def __init__(self, path: Path, save: Callable[[nn.Module, Path], None]) -> None:
        self.path, self._save = path, save
        self.checkpoint = path / "checkpoint.safetensors"
        self.model = path / "model.safetensors"
        self._log = path / "log.jsonl"

    def begin(self, resume: bool) -> None:
        """Make the folder ready.

        Raises: FileExistsError where it holds a run that is not to be resumed.
        """
        if not resume and (self.checkpoint.exists() or self._log.exists()):
            raise FileExistsError(f"{self.path}: holds a run already, want another folder, or resume it (--resume)")
        self.path.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)

    def observers(self, recipe: Recipe, position: Position) -> list[Observer]:
        """Write the recipe and open the logs that it asks for."""
        with replacing(self.path / "recipe.yaml") as temporary:
            temporary.write_text(as_yaml(recipe), encoding="utf-8")
        observers: list[Observer] = [JSONLog(self._log, position, recipe.log_every)]
        if recipe.tensorboard:
            observers.append(TensorBoardLog(self.path / "tensorboard", position, recipe.log_every))
        return observers

    def end_epoch(self, model: nn.Module) -> None:
        """Write the network and draw the curve.

        Raises: CheckpointError where the network cannot be written; an older file stays.
        """
        try:
            self._save(model, self.model)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.model}: not written: {error}") from error
        draw_curve(self._log, self.path / "curve.png")
