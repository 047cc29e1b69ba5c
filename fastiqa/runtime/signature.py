"""An operator's arguments: names, kinds and defaults from its schema; binding, promotion and casts in a call."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastiqa.runtime.layout import ACCUMULATION, FLOATING

# Kind in the schema -> Python types of an argument that is not a tensor, and the words for them.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((float, int, numbers.Real, torch.SymFloat, torch.SymInt), "a number"),
    "int": ((int, numbers.Integral, torch.SymInt), "an integer"),
    "str": ((str,), "a string"),
}


PLAIN = frozenset({Tensor, torch.nn.Parameter, type(None)})  # a subclass may want to see the call


class Signature:
    """The parameters of one operator.

    Attributes:
        names: every parameter, in order.
        tensors: positions of the tensors among them.
        results: names of the results, "" where the schema gives none.
    """

    def __init__(self, schema: Any, wide: Sequence[str] = ()) -> None:
        self._operator = schema.name.rpartition("::")[2]
        self._arguments = schema.arguments
        self.names = tuple(argument.name for argument in schema.arguments)
        self.results = tuple(result.name for result in schema.returns)
        kinds = [str(argument.type) for argument in schema.arguments]
        self.tensors = tuple(k for k, kind in enumerate(kinds) if "Tensor" in kind)
        self._wide = tuple(self.names.index(name) for name in wide)
        self._narrow = tuple(k for k in self.tensors if k not in self._wide)
        self._optional = frozenset(k for k in self.tensors if "Optional" in kinds[k])
        self._plain = tuple((k, *_KINDS[kind]) for k, kind in enumerate(kinds) if kind in _KINDS)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments in the schema's order, defaults filled in; TypeError names what is missing or of the wrong kind."""
        if kwargs or len(args) != len(self.names):
            args = self._by_name(args, kwargs)
        for k in self.tensors:
            if not isinstance(args[k], Tensor) and not (args[k] is None and k in self._optional):
                raise TypeError(f"{self.names[k]}: got {type(args[k]).__name__}, want a tensor")
        for k, types, words in self._plain:
            if not isinstance(args[k], types):
                raise TypeError(f"{self.names[k]}: got {type(args[k]).__name__}, want {words}")
        return args

    def complete(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments from the dispatcher, completed by the trailing defaults that it leaves out."""
        missing = self._arguments[len(args) :]
        return (*args, *(argument.default_value for argument in missing)) if missing else args

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if len(args) > len(self.names):
            raise TypeError(f"{self._operator} takes {len(self.names)} arguments, got {len(args)}")
        named = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.names or name in named:
                problem = "given twice" if name in named else f"{self._operator} has no such argument"
                raise TypeError(f"{name}: {problem}")
            named[name] = value
        for argument in self._arguments:
            if argument.name not in named:
                if not argument.has_default_value():
                    raise TypeError(f"{argument.name}: missing in the call of {self._operator}")
                named[argument.name] = argument.default_value
        return tuple(named[name] for name in self.names)

    def promote(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tensor arguments in their common dtype, as PyTorch promotes them; wide ones in its accumulation type."""
        for k in self.tensors:
            if args[k] is None and k not in self._optional:  # the dispatcher lets None pass for any tensor
                raise TypeError(f"{self.names[k]}: got NoneType, want a tensor")
        self.check_strided(args)
        narrow = {args[k].dtype for k in self._narrow if args[k] is not None}
        wide = {args[k].dtype for k in self._wide}
        if not (narrow | wide).issubset(FLOATING):
            return args  # the layout rule, which knows the name, refuses them
        dtype = narrow.pop() if len(narrow) == 1 else functools.reduce(torch.promote_types, narrow)
        if not narrow and wide <= {ACCUMULATION[dtype]}:
            return args
        return self.cast(args, dtype)

    def check_strided(self, args: tuple[Any, ...]) -> None:
        """Raise TypeError that names a tensor without strides: sparse, nested or of MKL-DNN."""
        for k in self.tensors:
            if (x := args[k]) is not None and (x.layout is not torch.strided or x.is_nested):
                kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").lstrip("_")
                raise TypeError(f"{self.names[k]}: got a tensor of layout {kind}, want strided")

    def cast(self, args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
        """Tensor arguments in that dtype, wide ones in its accumulation type."""
        wide = ACCUMULATION[dtype]
        return tuple(
            x.to(wide if k in self._wide else dtype) if k in self.tensors and x is not None else x
            for k, x in enumerate(args)
        )

    def metadata(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The properties of the arguments that a layout rule may read."""
        return tuple([(x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in args])

    def requires_grad(self, args: tuple[Any, ...]) -> bool:
        """Whether a call with these arguments needs a gradient."""
        return torch.is_grad_enabled() and any(args[k] is not None and args[k].requires_grad for k in self.tensors)

    def has_tangents(self, args: tuple[Any, ...]) -> bool:
        """Whether forward-mode differentiation needs the derivative of a call with these arguments."""
        tensors = (args[k] for k in self.tensors if args[k] is not None)
        return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)

    def is_plain(self, args: tuple[Any, ...]) -> bool:
        """Whether every tensor is of a plain type: no subclass has to see the call."""
        return PLAIN.issuperset([type(args[k]) for k in self.tensors])
