"""Training: recipes, tasks, and the trainer that runs them."""

from fastiqa.training.config.fields import RecipeError
from fastiqa.training.recipes.recipe import Recipe
from fastiqa.training.recipes.recipe_file import read_recipe, recipe_names
from fastiqa.training.run.batches import DataError
from fastiqa.training.run.checkpoint import CheckpointError
from fastiqa.training.run.processes import Stopped
from fastiqa.training.run.trainer import TrainingError, train

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
