"""fastiqa: image-quality networks that run at memory speed.

Names are imported on first use: ``import fastiqa`` costs a few milliseconds beyond ``import torch``, loads no compiled
library and does not initialise CUDA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# public name -> module that defines it
_EXPORTS = {
    "accelerate": "fastiqa.acceleration.accelerate",
    "create_metric": "fastiqa.metrics",
    "list_metrics": "fastiqa.metrics",
    "use": "fastiqa.runtime.dispatch",
    "explain": "fastiqa.nn.explanation",
    "create_model": "fastiqa.models",
    "list_models": "fastiqa.models",
    "load_model": "fastiqa.models",
    "optimize_for_inference": "fastiqa.models.inference",
    "rank": "fastiqa.models",
    "save_model": "fastiqa.models",
}
_SUBMODULES = ("cli", "data", "kernels", "metrics", "models", "nn", "ops", "reference", "training")

__all__ = ["__version__", *_EXPORTS, *_SUBMODULES]

if TYPE_CHECKING:  # `as` names an export to type checkers, which cannot read this __all__
    from fastiqa import cli as cli
    from fastiqa import data as data
    from fastiqa import kernels as kernels
    from fastiqa import metrics as metrics
    from fastiqa import models as models
    from fastiqa import nn as nn
    from fastiqa import ops as ops
    from fastiqa import reference as reference
    from fastiqa import training as training
    from fastiqa.acceleration.accelerate import accelerate as accelerate
    from fastiqa.metrics import create_metric as create_metric
    from fastiqa.metrics import list_metrics as list_metrics
    from fastiqa.models import create_model as create_model
    from fastiqa.models import list_models as list_models
    from fastiqa.models import load_model as load_model
    from fastiqa.models import rank as rank
    from fastiqa.models import save_model as save_model
    from fastiqa.models.inference import optimize_for_inference as optimize_for_inference
    from fastiqa.nn.explanation import explain as explain
    from fastiqa.runtime.dispatch import use as use

else:  # to them a module with a __getattr__ has every name

    def __getattr__(name: str) -> Any:
        if name in _EXPORTS:
            value = getattr(importlib.import_module(_EXPORTS[name]), name)
        elif name in _SUBMODULES:
            value = importlib.import_module(f"fastiqa.{name}")
        else:
            raise AttributeError(f"module 'fastiqa' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
