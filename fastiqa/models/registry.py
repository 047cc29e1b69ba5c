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
    """

    model: type[nn.Module]
    options: dict[str, Any]
    not_of_files: tuple[str, ...] = ()


MODELS = {
    "lpips": ModelEntry(LPIPS, {}, ("trunk", "heads", "data_range", "spatial", "reduction")),
    "mfenet": ModelEntry(MFENet, {}, ("memory",)),
    "prfnet": ModelEntry(PRFNet, {"first_stage_stride": 2}, ("memory",)),
    "prfnet_fast": ModelEntry(PRFNet, {"first_stage_stride": 4}, ("memory",)),
}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names of models that match a shell-style `pattern`."""
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def model_class(name: str) -> type[nn.Module]:
    """The class of a model. Raises ValueError that lists the names."""
    if name not in MODELS:
        raise ValueError(f"name: got {name!r}, want one of {', '.join(list_models())}")
    return MODELS[name].model


def not_of_files(name: str) -> frozenset[str]:
    """Constructor arguments of a model that no weight file may set; none for an unknown name."""
    return frozenset(MODELS[name].not_of_files if name in MODELS else ())
