"""The folder of a run.

recipe.yaml               the recipe in full
checkpoint.safetensors    what a resumed run starts from
model.safetensors         the network after the last finished epoch, averaged if the run averages, for
                          `fastiqa.load_model`; after contrastive pre-training its backbone, for `load_backbone`
log.jsonl                 see `fastiqa.training.run.logs`
curve.png                 the learning curve, if matplotlib is installed
tensorboard/              if the recipe asks for it
.fastiqa.lock             the id of the process that trains, see `fastiqa.common.files.locked`
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import nn

from fastiqa.common.files import is_empty, locked, remove_unfinished, replacing
from fastiqa.training.recipes.recipe import Recipe
from fastiqa.training.recipes.recipe_file import as_yaml
from fastiqa.training.run.checkpoint import CheckpointError, Position
from fastiqa.training.run.logs import JSONLog, Observer, TensorBoardLog, draw_curve

if TYPE_CHECKING:
    from typing_extensions import Self


class RunFolder:
    """The files of a run, which only its first process writes; a context manager.

    From `begin` to the end of the context, no other run can use the folder.

    Args:
        path: the folder.
        save: writes the network that the run ends with to a path.

    Attributes:
        checkpoint, model: paths of the checkpoint and of the network.
    """

    def __init__(self, path: Path, save: Callable[[nn.Module, Path], None]) -> None:
        self.path, self._save = path, save
        self.checkpoint = path / "checkpoint.safetensors"
        self.model = path / "model.safetensors"
        self._log = path / "log.jsonl"
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.close()

    def begin(self, resume: bool) -> None:
        """Make the folder if need be, and lock it.

        Raises: FileExistsError if it is a file, holds a run that is not to be resumed, or holds other files than a
            run's; FolderInUseError if another run writes to it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"out: got {self.path}, a file, want a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(locked(self.path))
        if self.checkpoint.exists() or self._log.exists():
            if not resume:
                raise FileExistsError(f"{self.path}: holds a run already, want another folder, or resume it (--resume)")
        elif not is_empty(self.path):
            raise FileExistsError(f"{self.path}: got a folder of other files than a run's, want a new or an empty one")
        remove_unfinished(self.path)

    def observers(self, recipe: Recipe, position: Position) -> list[Observer]:
        """Write the recipe and open the logs that it asks for."""
        # The log comes first: it tells a run that is killed here from a folder of other files.
        observers: list[Observer] = [JSONLog(self._log, position, recipe.log_every)]
        with replacing(self.path / "recipe.yaml") as temporary:
            temporary.write_text(as_yaml(recipe), encoding="utf-8")
        if recipe.tensorboard:
            observers.append(TensorBoardLog(self.path / "tensorboard", position, recipe.log_every))
        return observers

    def end_epoch(self, model: nn.Module) -> None:
        """Write the network and draw the curve.

        Raises: CheckpointError if the network cannot be written; an older file stays.
        """
        try:
            self._save(model, self.model)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.model}: not written: {error}") from error
        draw_curve(self._log, self.path / "curve.png")
