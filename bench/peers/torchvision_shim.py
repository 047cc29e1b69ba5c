"""Libraries that import torchvision, beside CPU torch, where its compiled extension does not load."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_KEPT_ALIVE: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Make torchvision importable without its compiled extension.

    Its Python side registers fakes for two operators and fails where the extension has not declared them. The
    declarations last as long as the library object.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or hasattr(torch.ops.torchvision, "nms"):
        return
    for extension in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)


def import_library(name: str) -> ModuleType:
    """Import a library that may need torchvision. Raises ImportError."""
    declare_torchvision_operators()
    return importlib.import_module(name)
