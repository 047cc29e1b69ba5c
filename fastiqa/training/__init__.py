"""Training: recipes, tasks, and the trainer that runs them."""

from fastiqa.training.batches import DataError
from fastiqa.training.checkpoint import CheckpointError
from fastiqa.training.interruptions import Stopped
from fastiqa.training.recipe import Recipe, RecipeError
from fastiqa.training.recipe_file import read_recipe, recipe_names
from fastiqa.training.trainer import TrainingError, train

__all__ = [
    "CheckpointError",
    "DataError",
    "Recipe",
    "RecipeError",
    "Stopped",
    "TrainingError",
    "read_recipe",
    "recipe_names",
    "train",
]
