"""Caches call plans by argument metadata.

With small maps the plan is most of a call's cost: scale_residual_relu_backward of 1x8x4x4 takes 11 instead of 20 us, of
which the kernel has 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiqa.runtime.layout import Output
from fastiqa.runtime.signature import Signature

MOST_PLANS = 256  # of one operator: sizes may never return


class Plan(NamedTuple):
    """How an operator is called.

    Attributes:
        outputs: those of the layout rule.
        promotes: whether the arguments have to be promoted first.
        empty: whether a tensor is empty: the reference runs, since kernels divide by sizes.
        may_be_sparse: whether a tensor has its first stride 0 or 1 and all others 0, as one expanded number has.
            Sparse tensors and those of MKL-DNN claim such strides, so every call has to look at the arguments.
        allocators: one function for each result, which makes the tensor that a kernel writes.
    """

    outputs: tuple[Output, ...]
    promotes: bool
    empty: bool
    may_be_sparse: bool
    allocators: tuple[Callable[[], Tensor], ...]


class Plans:
    """The plans of one operator. Its layout rule reads metadata alone, since it also runs in the fake kernel."""

    def __init__(self, signature: Signature, layout: Callable[..., tuple[Output, ...]]) -> None:
        self._signature, self._layout = signature, layout
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def __call__(self, args: tuple[Any, ...]) -> Plan:
        """The plan for these arguments. Raises the errors of promotion and of the layout rule."""
        try:
            key = self._signature.metadata(args)
        except RuntimeError:  # nested tensors have no shape, and some sparse ones no strides
            self._signature.check_strided(args)
            raise
        plan = self._plans.get(key)
        if plan is None:
            plan = self._make(args)
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _make(self, args: tuple[Any, ...]) -> Plan:
        promoted = self._signature.promote(args)
        outputs = self._layout(*promoted)
        empty = any_empty(self._signature, promoted, outputs)
        may_be_sparse = any(not any(x.stride()[1:]) for x in args if isinstance(x, Tensor))
        return Plan(
            outputs, promoted is not args, empty, may_be_sparse, tuple(_allocator(output) for output in outputs)
        )


def any_empty(signature: Signature, args: tuple[Any, ...], outputs: Sequence[Output]) -> bool:
    """Whether a tensor or a result is empty."""
    tensors = (args[k] for k in signature.tensors if args[k] is not None)
    return any(0 in x.shape for x in (*outputs, *tensors))


def _allocator(output: Output) -> Callable[[], Tensor]:
    # By strides, which takes two thirds of the time that a memory format takes.
    return functools.partial(
        torch.empty_strided, tuple(output.shape), output.strides(), dtype=output.dtype, device=output.device
    )
