"""Optimizers, learning rates, and factors of the learning rate by the beginnings of parameter names.

The longest beginning counts, in whole parts of a name: "dan" applies to "dan.conv1.weight", not to "dan_head.weight". A
factor of 0 freezes: no gradients, and eval mode, so that statistics stay as they are too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastiqa.training.config.settings import Optimizer, Step

Factors = Mapping[str, float]


def factor_of(name: str, factors: Factors) -> float:
    """The factor of a parameter or module, by its name; 1 where none is given."""
    given = [prefix for prefix in factors if f"{name}.".startswith(f"{prefix}.")]
    return factors[max(given, key=len)] if given else 1.0


def factors_error(model: nn.Module, factors: Factors) -> str | None:
    """Why factors are refused for this network, or None."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in factors:
        if not any(f"{name}.".startswith(f"{prefix}.") for name in names):
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            return f"got {prefix!r}, want the beginning of a parameter's name, such as {', '.join(parts)}"
    if all(factor_of(name, factors) == 0 for name in names):
        return f"got {dict(factors)}, want some parameter that is not frozen"
    return None


def freeze(model: nn.Module, factors: Factors) -> None:
    """Require gradients for the parameters with a factor above 0, and for no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(factor_of(name, factors) != 0)


def set_training(model: nn.Module, factors: Factors) -> None:
    """Training mode for the modules with a factor above 0, eval mode for the others."""
    for name, module in model.named_modules():  # an outer module comes before those inside it
        module.train(factor_of(name, factors) != 0)


def parameter_groups(model: nn.Module, factors: Factors) -> list[dict[str, Any]]:
    """The parameters that require gradients, in a group for each factor, {"params": ..., "factor": ...}."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(factor_of(name, factors), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def build_optimizer(settings: Optimizer, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of a step, with weight decay on every parameter; groups come from `parameter_groups`."""
    lr, weight_decay = settings.lr, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=settings.momentum, weight_decay=weight_decay)
    adam = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return adam(groups, lr, betas=(settings.momentum, 0.999), weight_decay=weight_decay)


def learning_rate(step: Step, epoch: int, done: float) -> float:
    """The learning rate in a step's epoch, counted from 0, when the share `done` of it, in [0, 1), is done."""
    schedule = step.schedule
    warmup = schedule.warmup * step.epochs
    if epoch + done < warmup:
        return step.optimizer.lr * (epoch + done) / warmup
    since, rest = epoch + done - warmup, step.epochs - warmup
    if schedule.name == "step":
        return step.optimizer.lr * schedule.factor ** int(since // schedule.every)
    return step.optimizer.lr * (1 + math.cos(math.pi * since / rest)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set each group's learning rate to `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimizer's state by "parameter name.state name"."""
    return {
        f"{names[parameter]}.{key}": value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Load what `optimizer_tensors` returned into an optimizer that was built alike."""
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, state = key.rpartition(".")
        saved.setdefault(parameter, {})[state] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known: dict[str, Any] = optimizer.state_dict()
    known["state"] = {i: saved[names[p]] for i, p in enumerate(parameters) if names[p] in saved}
    optimizer.load_state_dict(known)
