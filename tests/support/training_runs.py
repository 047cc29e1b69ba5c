"""Runs of a tiny network for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastiqa.common.weight_files import read_weights
from fastiqa.training import read_recipe, train
from fastiqa.training.tasks.comparison import RandomTriplets

TINY = (
    "workers=0",
    "validation=null",
    "steps.coarse.epochs=2",
    "batch_size=8",
    "data.clic.items=24",
    "data.bapps.items=16",
    "data.pieapp.items=16",
    "data.pieapp.height=48",
    "optimizer.weight_decay=0.01",
)
COARSE = (*TINY, "steps.fine=null", "steps.coarse.epochs=1")


class Stop(Exception):
    """Raised by an observer: the run ends there as if it had been killed."""


class StopAt:
    """Observer that ends the run after an update."""

    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def batch(self, report: Any) -> None:
        if report.iteration == self._iteration:
            raise Stop

    def epoch(self, report: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Altered(RandomTriplets):
    """Random triplets with some items replaced; a replacement that is an exception is raised."""

    def __init__(self, items: int, **replaced: Any) -> None:
        super().__init__(items=items, height=48, width=48)
        self._replaced = {int(name.lstrip("i")): value for name, value in replaced.items()}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        value = self._replaced.get(index)
        if isinstance(value, Exception):
            raise value
        return super().__getitem__(index) if value is None else value(*super().__getitem__(index))


def run(folder: Path, *overrides: str, **arguments: Any) -> dict[str, Tensor]:
    """Train by the smoke recipe; returns the tensors of the last checkpoint."""
    train(read_recipe("smoke", [*TINY, *overrides]), folder, device="cpu", **arguments)
    return state(folder)


def state(folder: Path) -> dict[str, Tensor]:
    return read_weights(folder / "checkpoint.safetensors")[0]


def log(folder: Path) -> list[dict[str, Any]]:
    """The log without a run's times and memory."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "memory_mb")} for line in lines]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
