"""Convert plain modules into fused ones, in place.

A fused module subclasses its plain twin and has the same attributes, parameters and buffers, so a changed class is the
whole conversion. Twins of other libraries' modules, in `fastiqa.acceleration`, work the same way.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

import fastiqa.nn
from fastiqa import reference
from fastiqa.nn.fused import Fused

Twins = Mapping[type[nn.Module], type[nn.Module]]  # plain class -> its fused subclass
WhyNot = Callable[[nn.Module], "str | None"]

_PLAIN = tuple(getattr(reference, name) for name in reference.__all__)


def twins_of(*fused: type[nn.Module]) -> dict[type[nn.Module], type[nn.Module]]:
    """Pair classes of `fastiqa.reference` with their fused subclasses of the same name among these."""
    named = {kind.__name__: kind for kind in fused}
    return {plain: named[plain.__name__] for plain in _PLAIN if plain.__name__ in named}


TWINS = twins_of(*(getattr(fastiqa.nn, name) for name in fastiqa.nn.__all__))


class Swap(NamedTuple):
    """A module whose class changed. Its name comes from `torch.nn.Module.named_modules`, "" for the model."""

    name: str
    before: type[nn.Module]
    after: type[nn.Module]


@dataclass(frozen=True)
class AccelerateReport:
    """What `accelerate` did; its `str` is a summary to print.

    Attributes:
        swapped: name, class before and class after of each converted module.
        left: name of each plain module of `fastiqa.reference` or pytorch-msssim that stayed, and the reason.
        explained: name and `fastiqa.explain`'s text for each converted `PRFHead`, and for each other converted module
            that runs block by block.
    """

    swapped: tuple[Swap, ...]
    left: tuple[tuple[str, str], ...]
    explained: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        counts = Counter(swap.after.__name__ for swap in self.swapped)
        lines = ["swapped: " + (", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing")]
        lines += [f"  {name or 'the model'}: {way}" for name, way in self.explained]
        lines += [f"left: {name or 'the model'}: {reason}" for name, reason in self.left]
        return "\n".join(lines)


def convert(
    model: nn.Module, twins: Twins, foreign: Mapping[type[nn.Module], WhyNot] | None = None
) -> AccelerateReport:
    """Convert each plain module in `model` to its twin, in place; see `fastiqa.accelerate`.

    Args:
        model: any module.
        twins: plain class -> fused subclass.
        foreign: for each class of `twins` from another library, a function that returns why a module cannot become
            its twin, or None.

    Raises: TypeError, ValueError, as `fastiqa.accelerate`.
    """
    foreign = foreign or {}
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, want a torch.nn.Module")
    _check_not_compiled(model, twins)
    known, fused = (*_PLAIN, *foreign), tuple(twins.values())
    plain = {n: m for n, m in model.named_modules() if isinstance(m, known) and not isinstance(m, fused)}
    reasons = {name: _why_not(module, twins, foreign) for name, module in plain.items()}
    swapped = [Swap(name, type(plain[name]), twins[type(plain[name])]) for name in plain if reasons[name] is None]
    for name, _, after in swapped:
        plain[name].__class__ = after
    left = tuple((name, reason) for name, reason in reasons.items() if reason is not None)
    explained = tuple((name, way) for name, *_ in swapped if (way := _way_worth_a_line(plain[name])) is not None)
    return AccelerateReport(tuple(swapped), left, explained)


def _check_not_compiled(model: nn.Module, twins: Twins) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model: got a module of TorchScript, want accelerate before torch.jit")
    for name, module in model.named_modules():
        compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if compiled and any(type(inner) in twins for inner in module.modules()):
            raise ValueError(f"model: {name or 'it'} is compiled already, want accelerate before torch.compile")


def _why_not(module: nn.Module, twins: Twins, foreign: Mapping[type[nn.Module], WhyNot]) -> str | None:
    """Return why a plain module cannot become its twin, or None."""
    plain = type(module)
    if plain not in twins:
        if plain in _PLAIN:
            return f"{plain.__name__} has no fused twin"
        base = next(base for base in plain.__mro__ if base in _PLAIN or base in foreign)
        return f"{plain.__name__} is a subclass of {base.__name__}, which may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced"
    if plain in foreign:
        return foreign[plain](module)
    twin: Any = copy.copy(module)
    twin.__class__ = twins[plain]
    reason = twin.must_call() if isinstance(twin, Fused) else None
    if reason is None or twin.why_not() != reason:  # if it runs block by block for another reason, it calls every layer
        return None
    return f"{reason}, and the fused {plain.__name__} would not call it"


def _way_worth_a_line(swapped: nn.Module) -> str | None:
    if isinstance(swapped, Fused) and (isinstance(swapped, fastiqa.nn.PRFHead) or swapped.why_not() is not None):
        return swapped.explain()
    return None
