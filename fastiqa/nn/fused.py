"""Modules with several ways to run, and how they explain the choice."""

from __future__ import annotations

from torch import nn

from fastiqa.common.tracing import Leaf


class Fused(Leaf):
    """Base, listed before the plain twin, of a module that reads inner layers instead of calling them.

    If a layer is not plain, or the module has another reason, it runs as the twin does: block by block.
    """

    way = "on the fused operators"

    def must_call(self) -> str | None:
        """Return why the inner layers must be called, not read (see `fastiqa.reference.plain_layers`), or None."""
        raise NotImplementedError

    def why_not(self) -> str | None:
        """Return why the module runs block by block, or None."""
        return self.must_call()

    def explain(self) -> str:
        """Tell how the module runs, and why no other way."""
        reason = self.why_not()
        way = self.way if reason is None else f"block by block, because of this: {reason}"
        return f"{type(self).__name__} runs {way}"


class FusedNetwork(nn.Module):
    """Base, listed before the plain twin, of a network of fused modules."""

    def explain(self) -> str:
        """Tell how the network runs, in one line, and one more for every module that runs block by block."""
        inner = [(name, module) for name, module in self.named_modules() if isinstance(module, Fused)]
        lines = [f"  {name}: {module.explain()}" for name, module in inner if module.why_not() is not None]
        return "\n".join([f"{type(self).__name__} runs on the fused operators{', but' if lines else ''}", *lines])
