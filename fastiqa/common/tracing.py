"""How modules look to `torch.fx` and to `torch.jit.script`.

torch.fx runs Python with stand-ins for tensors, which have no shape. Modules that decide by shapes, or call an operator
of fastiqa, become nodes of the graph; all others are traced through. TorchScript compiles the plain twins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.fx import Proxy


def tracer_of(values: Iterable[Any]) -> Any:
    """Return the tracer of `torch.fx` behind a stand-in among these arguments, or in a list of them, or None."""
    for value in values:
        if isinstance(value, Proxy):
            return value.tracer
        if isinstance(value, (list, tuple)) and (tracer := tracer_of(value)) is not None:
            return tracer
    return None


def one_node(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, or, for stand-ins of `torch.fx`, record the call as one node of their graph.

    Not a decorator: functions that share a wrapper share torch.compile's limit of recompilations.
    """
    tracer = tracer_of((*args, *kwargs.values()))
    if tracer is None:
        return function(*args, **kwargs)
    return tracer.create_proxy("call_function", function, args, kwargs)


class Leaf(nn.Module):
    """Base, listed first, of a module whose call is one node in the graphs of `torch.fx`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args)
        if tracer is None:
            return super().__call__(*args, **kwargs)

        def node(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, node, args, kwargs)


class Scriptable(nn.Module):
    """Base, listed first, of a network that `torch.jit.script` compiles as plain modules with the same weights."""

    def __prepare_scriptable__(self) -> nn.Module:
        """Return a copy with the same parameters and buffers, of modules that TorchScript can read.

        If the network is part of another module, torch.jit.script leaves the copy in its place.
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
