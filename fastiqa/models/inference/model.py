"""InferenceModel: the base class of networks made for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastiqa.common import arguments
from fastiqa.models.inference.layers import fold_norms, introduce_neighbours, make_constant, norms_left, overwriting
from fastiqa.nn.fused import Fused


class InferenceModel(nn.Module):
    """A network with folded norms and constant, cast weights, never in training mode; see `optimize_for_inference`.

    Attributes:
        folded: number of norms folded into convolutions.
        kept: why a module runs block by block, by its name: a layer inside is not plain (hooks, an adapter, …).
        memory_format: memory format of the weights, and of images and feature maps on their way.
        compiled: name of the part that torch.compile compiles, or None.
    """

    # What `save_model` answers: the options that rebuild the network do not give folded weights.
    why_not_saved = (
        "whose norms are folded, want the network that it was made of, to optimize anew after load_model "
        "(or torch.save, a pickle)"
    )

    folded: int
    kept: dict[str, str]
    memory_format: torch.memory_format
    compiled: str | None

    def _settle(self, dtype: torch.dtype, memory_format: torch.memory_format, compiled: str | None) -> None:
        """Fold the norms, in float64, so that folded weights are rounded once; then cast."""
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
        self.eval()  # also modules that replaced norms: some look at their mode
        for part in self.children():
            part.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
        self._compile()

    def _fold_rest(self) -> None:
        """Fold what else depends on the weights alone, in float64."""

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
        """Raises RuntimeError unless `mode` is False."""
        if mode:
            name = type(self).__name__
            raise RuntimeError(
                f"mode: got True, want False: {name} has no norms to train; train the model it is made of"
            )
        return super().train(mode)

    def facts(self) -> dict[str, str]:
        """What `optimize_for_inference` did, by title."""
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
        """The facts, a line each."""
        lines = (f"  {title:<9} {fact}" for title, fact in self.facts().items())
        return "\n".join((type(self).__name__, *lines))

    def extra_repr(self) -> str:
        return "; ".join(f"{title}: {fact}" for title, fact in self.facts().items())
