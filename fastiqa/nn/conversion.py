"""Plain modules turned into fused ones, in place.

A fused module is a subclass of its plain twin with the same attributes, parameters and buffers, so that changing a
module's class is all there is to do. So are the twins of pytorch-msssim's modules.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

import fastiqa.nn
from fastiqa import models, reference
from fastiqa.nn.fused import Fused
from fastiqa.runtime.dispatch import explain

_PLAIN = tuple(getattr(reference, name) for name in reference.__all__)

# plain class -> its fused subclass, of the same name
PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(reference, name): getattr(package, name)
    for package in (fastiqa.nn, models)
    for name in package.__all__
    if name in reference.__all__
}


def _foreign() -> dict[type[nn.Module], type[nn.Module]]:
    """Twins of pytorch-msssim's classes; where nobody has imported it, there are no modules of theirs."""
    if "pytorch_msssim" not in sys.modules:
        return {}
    from fastiqa.acceleration import pytorch_msssim

    return pytorch_msssim.PAIRS


class Swap(NamedTuple):
    """A module whose class was changed; its name is that of `torch.nn.Module.named_modules`, "" for the model."""

    name: str
    before: type[nn.Module]
    after: type[nn.Module]


@dataclass(frozen=True)
class AccelerateReport:
    """What `accelerate` did; its `str` is a summary to print.

    Attributes:
        swapped: name, class before and class after of each module that runs on fused operators now.
        left: name of each module of `fastiqa.reference` or pytorch-msssim that stayed, and the reason.
        explained: name of each swapped `PRFHead`, and of each other swapped module that runs block by block, and what
            `fastiqa.explain` says of it.
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


def accelerate(model: nn.Module) -> AccelerateReport:
    """Turn each module of `fastiqa.reference` in `model` into its twin of `fastiqa.nn` or `fastiqa.models`, in place.

    SSIM and MS_SSIM of pytorch-msssim are turned into twins with the same options and values.

    Parameters, buffers, hooks, state dict and the modules themselves stay the same objects: optimizers, references and
    wrappers go on working, and results and gradients differ by rounding alone. Modules that are fused already are
    passed over; a second call changes nothing.

    A module is left as it is, with a reason in the report, where its twin might compute something else or would gain
    nothing: a subclass of a plain module (a parametrization makes one too), a `forward` that was replaced, and a module
    whose twin reads inner layers without calling them, where such a layer is no plain one: it has hooks, an adapter
    around it, parametrized, pruned, sharded or quantised weights, another stride or padding. Changed so later, after
    the swap, the twin runs block by block as the plain module does.

    Args:
        model: any module that contains modules of `fastiqa.reference`, or is one.

    Returns:
        What was swapped, what was left and why, and how modules with more than one way to run will do it.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model`, or a part of it with something to swap, is compiled already; nothing was changed.

    Example:
        >>> import fastiqa
        >>> from fastiqa import reference
        >>> model = reference.PRFNet(layers=(1, 1, 1, 1), width=8)
        >>> print(fastiqa.accelerate(model.head))
        swapped: 1 PRFHead, 4 CrossSubtraction, 1 ProgressiveFusion
          the model: PRFHead runs in one pass over the feature maps
        >>> len(fastiqa.accelerate(model).swapped)  # the rest
        35
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, want a torch.nn.Module")
    _check_not_compiled(model)
    pairs = PAIRS | _foreign()
    known, fused = (*_PLAIN, *_foreign()), tuple(pairs.values())
    plain = {n: m for n, m in model.named_modules() if isinstance(m, known) and not isinstance(m, fused)}
    reasons = {name: _why_not(module) for name, module in plain.items()}
    swapped = [Swap(name, type(plain[name]), pairs[type(plain[name])]) for name in plain if reasons[name] is None]
    for name, _, after in swapped:
        plain[name].__class__ = after
    return AccelerateReport(
        tuple(swapped),
        tuple((name, reason) for name, reason in reasons.items() if reason is not None),
        tuple((name, explain(plain[name])) for name, *_ in swapped if _is_worth_a_line(plain[name])),
    )


def _check_not_compiled(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model: got a module of TorchScript, want accelerate before torch.jit")
    for name, module in model.named_modules():
        compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if compiled and any(type(inner) in PAIRS | _foreign() for inner in module.modules()):
            raise ValueError(f"model: {name or 'it'} is compiled already, want accelerate before torch.compile")


def _why_not(module: nn.Module) -> str | None:
    """Why a plain module cannot become its twin, or None."""
    plain = type(module)
    if plain not in PAIRS and plain not in _foreign():
        if plain in _PLAIN:
            return f"{plain.__name__} has no fused twin"
        base = next(base for base in plain.__mro__ if base in _PLAIN or base in _foreign())
        return f"{plain.__name__} is a subclass of {base.__name__}, which may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced"
    if plain in _foreign():
        from fastiqa.acceleration import pytorch_msssim

        return pytorch_msssim.why_not(module)
    twin: Any = copy.copy(module)
    twin.__class__ = PAIRS[plain]
    reason = twin.must_call() if isinstance(twin, Fused) else None
    if reason is None or twin.why_not() != reason:  # block by block for another reason, it calls every layer
        return None
    return f"{reason}, and the fused {plain.__name__} would not call it"


def _is_worth_a_line(swapped: nn.Module) -> bool:
    return isinstance(swapped, Fused) and (isinstance(swapped, fastiqa.nn.PRFHead) or swapped.why_not() is not None)
