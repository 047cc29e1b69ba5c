"""The models by name, each with its class and default options. A new model is a line in `MODELS`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from fastiqa.metrics.lpips import LPIPS
from fastiqa.models.mfenet import MFENet
from fastiqa.models.prfnet import PRFNet


class ModelEntry(NamedTuple):
    """A model.

    Attributes:
        model: its class.
        options: constructor arguments that the name stands for.
        not_of_files: constructor arguments that no weight file may set: they name files, or how to run.
        optional: constructor arguments that saved options have only where they are not the default.
        random: constructor arguments that give random weights, if the class has weights of its own to load.
    """

    model: type[nn.Module]
    options: dict[str, Any]
    not_of_files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    random: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple's default, which nothing changes

    def build(self, **options: Any) -> nn.Module:
        """Construct the model with random weights."""
        return self.model(**{**self.random, **options})


# Networks that train from random weights on a CPU, in the recipes of their names.
_PRFNET_SMALL = {
    "layers": (1, 1, 1, 1),
    "width": 16,
    "base_width": 32,
    "first_stage_stride": 4,
    "cross_channels": (32, 32, 64, 64),
    "cross_norm": True,
    "hidden": 32,
    "dropout": 0.0,
    "symmetric": True,
}
_MFENET_SMALL = {
    "depths": (1, 1, 2, 1),
    "widths": (16, 32, 64, 96),
    "mlp_ratios": (4, 4, 4, 4),
    "hfen_width": 16,
    "dan_layers": (1, 1, 1, 1),
    "dan_width": 16,
    "hidden": (64,),
    "dropout": 0.1,
}

# MFENet's head alone, on the means of EfficientNet-Lite0's maps.
_MFENET_LITE = {"backbone": "efficientnet_lite0", "hfen": False, "dan": False, "hidden": (256,), "dropout": 0.4}

MODELS = {
    "lpips": ModelEntry(
        LPIPS,
        {},
        ("pretrained", "trunk", "heads", "weights", "data_range", "check_range", "spatial", "reduction"),
        random={"pretrained": False},
    ),
    "mfenet": ModelEntry(MFENet, {}, ("memory",), ("backbone",)),
    "mfenet_lite": ModelEntry(MFENet, _MFENET_LITE, ("memory",), ("backbone",)),
    "mfenet_small": ModelEntry(MFENet, _MFENET_SMALL, ("memory",), ("backbone",)),
    "prfnet": ModelEntry(PRFNet, {"first_stage_stride": 2}, ("memory",), ("symmetric", "backbone")),
    "prfnet_lite": ModelEntry(PRFNet, {"backbone": "efficientnet_lite0"}, ("memory",), ("symmetric", "backbone")),
    "prfnet_fast": ModelEntry(PRFNet, {"first_stage_stride": 4}, ("memory",), ("symmetric", "backbone")),
    "prfnet_small": ModelEntry(PRFNet, _PRFNET_SMALL, ("memory",), ("symmetric", "backbone")),
}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of models that match a shell-style `pattern`."""
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def model_entry(name: str) -> ModelEntry:
    """The entry of a model. Raises ValueError that lists the names."""
    if name not in MODELS:
        raise ValueError(f"name: got {name!r}, want one of {', '.join(list_models())}")
    return MODELS[name]


def model_class(name: str) -> type[nn.Module]:
    """The class of a model. Raises ValueError that lists the names."""
    return model_entry(name).model


def not_of_files(name: str) -> frozenset[str]:
    """Constructor arguments of a model that no weight file may set; none for an unknown name."""
    return frozenset(MODELS[name].not_of_files if name in MODELS else ())
