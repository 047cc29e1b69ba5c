"""Stand-ins for published weights, in a folder of a test."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastiqa.common.installed_weights import MissingWeightsError
from fastiqa.models import Card, card_of, create_model, save_model
from fastiqa.models.publish import publish
from support.oracles import randomise

OPTIONS: dict[str, dict[str, Any]] = {
    "prfnet_lite": {"first_stage_stride": 4, "symmetric": True, "cross_norm": True, "hidden": 8},
}
FACTS: dict[str, Any] = {
    "data": "nothing",
    "licence": "Apache-2.0",
    "accuracy": "agrees with 50.0 % of 405 coins (95 % interval 45.1 to 54.9 %)",
    "scores": {"agreement with 405 coins": [0.5, 0.451, 0.549]},
}


def stand_ins(folder: Path) -> Callable[..., Card]:
    """A function (model, tag="test", **facts) that publishes random weights in the folder, and returns their card."""

    def write(name: str, tag: str = "test", half: bool = False, **facts: Any) -> Card:
        lite = name.endswith("_lite")
        try:
            model: Any = create_model(name, pretrained_backbone="imagenet" if lite else None, **OPTIONS.get(name, {}))
        except MissingWeightsError as error:
            pytest.skip(str(error))
        randomise(model.head if lite else model, seed=sum(map(ord, tag)))  # every tag has its own weights
        file = folder.parent / "trained.safetensors"
        save_model(model, file)
        publish(file, f"{name}.{tag}", half)
        card_file = folder / f"{name}.{tag}.json"
        card_file.write_text(json.dumps(json.loads(card_file.read_text()) | FACTS | facts))
        return card_of(f"{name}.{tag}")

    return write


def uninstall(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package look as if it were not installed."""
    real = importlib.metadata.distribution

    def without(name: str) -> importlib.metadata.Distribution:
        if name == distribution:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", without)
