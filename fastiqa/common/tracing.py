"""How modules look to `torch.fx` and to `torch.jit.script`.

torch.fx follows Python with stand-ins for tensors, which have no shape to decide by: modules that decide by it, or run
an operator of their own, are nodes of the graph, and the rest is traced through. TorchScript compiles the plain twins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.fx import Proxy


def tracer_of(values: Iterable[Any]) -> Any:
    """The tracer of `torch.fx` whose stand-ins are among these arguments or in a list of them, or None."""
    for value in values:
        if isinstance(value, Proxy):
            return value.tracer
        if isinstance(value, (list, tuple)) and (tracer := tracer_of(value)) is not None:
            return tracer
    return None


def one_node(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function's result; for stand-ins of `torch.fx` its call as one node of their graph.

    No decorator: functions that share a wrapper share torch.compile's limit of recompilations.
    """
    tracer = tracer_of((*args, *kwargs.values()))
    if tracer is None:
        return function(*args, **kwargs)
    return tracer.create_proxy("call_function", function, args, kwargs)


class Leaf(nn.Module):
    """Comes before the class of a module whose call is one node in the graphs of `torch.fx`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args)
        if tracer is None:
            return super().__call__(*args, **kwargs)

        def node(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, node, args, kwargs)


class Scriptable(nn.Module):
    """Comes before the class of a network that `torch.jit.script` compiles, as plain modules of the same weights."""

    def __prepare_scriptable__(self) -> nn.Module:
        """A copy with the same parameters and buffers, in which modules that TorchScript cannot read are others.

        Where the network is part of another module, torch.jit.script leaves the copy in its place.
        """
        tensors = (*self.parameters(), *self.buffers())
        network: nn.Module = copy.deepcopy(self, {id(tensor): tensor for tensor in tensors})
        for module in network.modules():
            kind = type(module)
            if kind.__module__.startswith("fastiqa.models.inference."):
                raise TypeError(f"network: got a {kind.__name__} inside, want the network that was optimized")
            if kind.__module__.startswith("fastiqa.nn."):
                kind = next(base for base in kind.__mro__[1:] if base.__name__ == kind.__name__)
            module.__class__ = getattr(kind, "scripted", kind)
        return network
