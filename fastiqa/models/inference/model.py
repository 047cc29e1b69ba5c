"""What every network made for inference has in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastiqa.common import arguments
from fastiqa.models.inference.layers import fold_norms, norms_left
from fastiqa.models.inference.in_place import introduce_neighbours, overwriting
from fastiqa.models.inference.onednn import make_constant
from fastiqa.nn.fused import Fused


class InferenceModel(nn.Module):
    """Base of what `optimize_for_inference` returns: norms folded, weights constant and cast, never in training mode.

    Attributes:
        folded: norms that were folded into convolutions.
        kept: modules that run block by block because a layer inside is not plain (hooks, an adapter around it, …), each
            by its name, and the reason.
        memory_format: of the weights, and of images and feature maps on their way.
        compiled: the part that torch.compile makes, by name, or None.
    """

    folded: int
    kept: dict[str, str]
    memory_format: torch.memory_format
    compiled: str | None

    def _settle(self, dtype: torch.dtype, memory_format: torch.memory_format, compiled: str | None) -> None:
        """Folds the norms of the parts and casts; in float64 before, so that what is folded is rounded once."""
        self.memory_format, self.compiled = memory_format, compiled
        self.requires_grad_(False)
        for part in self.children():
            part.double()
        fused = ((name, module) for name, module in self.named_modules() if isinstance(module, Fused))
        self.kept = {name: reason for name, module in fused if (reason := module.must_call()) is not None}
        self.folded = fold_norms(self.eval())
        self._fold_rest()
        make_constant(self)
        introduce_neighbours(self)
        self.eval()  # modules that stand in the place of norms, too: some look at their mode
        for part in self.children():
            part.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
        self._compile()

    def _fold_rest(self) -> None:
        """What else the weights alone decide, in float64."""

    def _compile(self) -> None:
        if self.compiled is not None:
            self.get_submodule(self.compiled).compile()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"memory_format": str(self.memory_format)}  # a torch.memory_format has no pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"memory_format": getattr(torch, state["memory_format"].removeprefix("torch."))})
        self._compile()  # a copy of a compiled module is not compiled

    def train(self, mode: bool = True) -> InferenceModel:
        """RuntimeError unless `mode` is False."""
        if mode:
            name = type(self).__name__
            raise RuntimeError(
                f"mode: got True, want False: {name} has no norms to train; train the model it is made of"
            )
        return super().train(mode)

    def facts(self) -> dict[str, str]:
        """What was done, by title."""
        left = norms_left(self)
        facts = {
            "norms": f"{self.folded} folded into convolutions, {len(left)} left{': ' * bool(left)}{', '.join(left)}",
            "weights": f"{arguments.parameter_of(self).dtype}, {self.memory_format}",
            "compiled": self.compiled or "nothing",
        }
        if self.kept:
            facts["kept"] = "; ".join(f"{name}, since {reason}" for name, reason in self.kept.items())
        if blocks := overwriting(self):
            facts["in place"] = f"{', '.join(blocks)}: each takes its argument's memory, but for hooks"
        return facts

    def explain(self) -> str:
        """What was done, a line each."""
        lines = (f"  {title:<9} {fact}" for title, fact in self.facts().items())
        return "\n".join((type(self).__name__, *lines))

    def extra_repr(self) -> str:
        return "; ".join(f"{title}: {fact}" for title, fact in self.facts().items())
