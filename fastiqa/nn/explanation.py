"""`fastiqa.explain`: how an operator or a module runs, and why no other way."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastiqa import ops


def explain(op: ops.Op | str | nn.Module, *args: Any, **kwargs: Any) -> str:
    """Report which backend runs an operator for these arguments, and why each other backend does not.

    Args:
        op: an operator of `fastiqa.ops`, or its name, with the call's arguments; or, without arguments, a network of
            this package or a module of `fastiqa.nn` that has more than one way to run.
        *args: the arguments of the call, in order.
        **kwargs: the arguments of the call, by name.

    Returns:
        Text to print: one line for each backend, or the module's way to run.

    Raises:
        TypeError: `op` is none of these, or an argument has a wrong type or dtype.
        ValueError: no operator has that name, or an argument has a wrong shape or device.

    Example::

        print(fastiqa.explain("cross_difference", ref, a, b))
    """
    if isinstance(op, str):
        if op not in ops.OPERATORS:
            raise ValueError(f"op: no operator {op!r}, want one of {', '.join(ops.OPERATORS)}")
        op = ops.OPERATORS[op]
    way: Any = getattr(op, "explain", None)
    if way is None:
        raise TypeError(f"op: got {type(op).__name__}, want an operator, its name, or a module with an `explain`")
    return str(way(*args, **kwargs) if isinstance(op, ops.Op) else way())
