"""The network of a recipe, where it is one of `fastiqa.list_models()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from fastiqa.models import create_model
from fastiqa.models.registry import model_class
from fastiqa.training.config.yaml_text import booleans

if TYPE_CHECKING:
    from fastiqa.training.recipes.recipe import Model


def registered(model: Model) -> nn.Module:
    """The network with its initial weights. Raises OSError, TypeError or ValueError as `fastiqa.create_model`."""
    return create_model(
        model.name,
        model.pretrained or False,
        pretrained_backbone=model.pretrained_backbone,
        pretrained_dan=model.pretrained_dan,
        **booleans(model.options, model_class(model.name)),
    )
