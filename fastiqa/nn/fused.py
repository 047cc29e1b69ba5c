"""Modules that have more than one way to run, and what they say of it."""

from __future__ import annotations

from torch import nn

from fastiqa.common.tracing import Leaf


class Fused(Leaf):
    """Comes before the plain twin of a module that reads inner layers instead of calling them.

    Where it must not, because a layer is not plain or for a reason of its own, it runs as the twin: block by block.
    """

    way = "on the fused operators"

    def must_call(self) -> str | None:
        """Why the inner layers must be called and cannot be read, see `fastiqa.reference.plain_layers`; or None."""
        raise NotImplementedError

    def why_not(self) -> str | None:
        """Why the module runs block by block, or None."""
        return self.must_call()

    def explain(self) -> str:
        """How the module runs, and why not otherwise."""
        reason = self.why_not()
        way = self.way if reason is None else f"block by block, because of this: {reason}"
        return f"{type(self).__name__} runs {way}"


class FusedNetwork(nn.Module):
    """Comes before the plain twin of a network of fused modules."""

    def explain(self) -> str:
        """How the network runs: a line for itself, and one for every module that runs block by block."""
        inner = [(name, module) for name, module in self.named_modules() if isinstance(module, Fused)]
        lines = [f"  {name}: {module.explain()}" for name, module in inner if module.why_not() is not None]
        return "\n".join([f"{type(self).__name__} runs on the fused operators{', but' if lines else ''}", *lines])
