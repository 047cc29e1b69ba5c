"""Optimizers and learning rates by the names that recipes use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fastiqa.training.config.settings import Optimizer, Step


def build_optimizer(settings: Optimizer, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of a step, weight decay on every parameter; groups as of `fastiqa.training.run.rates`."""
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=settings.momentum, weight_decay=weight_decay)
    adam = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return adam(groups, lr, betas=(settings.momentum, 0.999), weight_decay=weight_decay)


def learning_rate(step: Step, epoch: int, done: float) -> float:
    """The learning rate in an epoch of a step, of which a part in [0, 1) is done."""
    schedule = step.schedule
    warmup = schedule.warmup * step.epochs
    if epoch + done < warmup:
        return step.optimizer.lr * (epoch + done) / warmup
    since, rest = epoch + done - warmup, step.epochs - warmup
    if schedule.name == "step":
        return step.optimizer.lr * schedule.factor ** int(since // schedule.every)
    return step.optimizer.lr * (1 + math.cos(math.pi * since / rest)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate, times its factor for each group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Parameter, str]) -> dict[str, Tensor]:
    """What an optimizer remembers, as "name of the parameter.name of the state"."""
    return {
        f"{names[parameter]}.{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Give back what `optimizer_tensors` returned to an optimizer built alike."""
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, state = key.rpartition(".")
        saved.setdefault(parameter, {})[state] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known: dict[str, Any] = optimizer.state_dict()
    known["state"] = {i: saved[names[p]] for i, p in enumerate(parameters) if names[p] in saved}
    optimizer.load_state_dict(known)
