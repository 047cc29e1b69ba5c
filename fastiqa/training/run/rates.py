"""Which parameters of a network learn, and how fast: factors of the learning rate by the beginnings of their names.

The longest beginning counts, in whole parts of a name: "dan" is that of "dan.conv1.weight", not of "dan_head.weight".
A factor of 0 freezes: no gradients, and modules in eval mode, so that statistics stay as they are as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

Factors = Mapping[str, float]


def factor_of(name: str, factors: Factors) -> float:
    """The factor of a parameter or module; 1 where none is given."""
    given = [prefix for prefix in factors if f"{name}.".startswith(f"{prefix}.")]
    return factors[max(given, key=len)] if given else 1.0


def freeze(model: nn.Module, factors: Factors) -> None:
    """Gradients for the parameters that learn, and for no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(factor_of(name, factors) != 0)


def set_training(model: nn.Module, factors: Factors) -> None:
    """Training mode for the modules that learn, eval mode for the others."""
    for name, module in model.named_modules():  # an outer one before those in it
        module.train(factor_of(name, factors) != 0)


def parameter_groups(model: nn.Module, factors: Factors) -> list[dict[str, Any]]:
    """The parameters that learn, for an optimizer: a group, with its "factor", for each factor."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(factor_of(name, factors), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def refused(model: nn.Module, factors: Factors) -> str | None:
    """What is wrong with factors for this network, if anything."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in factors:
        if not any(f"{name}.".startswith(f"{prefix}.") for name in names):
            parts = dict.fromkeys(name.partition(".")[0] for name in names)
            return f"got {prefix!r}, want the beginning of a parameter's name, such as {', '.join(parts)}"
    if all(factor_of(name, factors) == 0 for name in names):
        return f"got {dict(factors)}, want some parameter that is not frozen"
    return None
