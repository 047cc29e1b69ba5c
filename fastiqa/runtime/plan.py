"""What follows from the metadata of a call's arguments alone, and is therefore found once.

With small maps it is what a call costs: scale_residual_relu_backward of 1x8x4x4 takes 11 instead of 20 us, of which the
kernel has 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiqa.runtime.layout import Output
from fastiqa.runtime.signature import Signature

MOST_PLANS = 256  # of an operator: sizes may never come back


class Plan(NamedTuple):
    """How an operator is called.

    Attributes:
        outputs: what the layout rule says.
        promotes: the arguments have to be promoted first.
        hollow: something is empty, and goes to the reference: kernels divide by sizes.
        spread: a tensor has its first stride 0 or 1 and all others 0, which a sparse tensor, or one of MKL-DNN, says of
            itself as well as one number expanded: such arguments have to be looked at in every call.
        empties: what makes the tensors that a kernel writes.
    """

    outputs: tuple[Output, ...]
    promotes: bool
    hollow: bool
    spread: bool
    empties: tuple[Callable[[], Tensor], ...]


class Plans:
    """The plans of one operator. Its layout rule reads nothing but metadata, as it also runs in the fake kernel."""

    def __init__(self, signature: Signature, layout: Callable[..., tuple[Output, ...]]) -> None:
        self._signature, self._layout = signature, layout
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def __call__(self, args: tuple[Any, ...]) -> Plan:
        """The plan for these arguments; raises what promotion and the layout rule raise."""
        try:
            key = self._signature.metadata(args)
        except RuntimeError:  # nested tensors have no shape, some sparse ones no strides
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
        hollow = is_hollow(self._signature, promoted, outputs)
        spread = any(not any(x.stride()[1:]) for x in args if isinstance(x, Tensor))
        return Plan(outputs, promoted is not args, hollow, spread, tuple(_maker(output) for output in outputs))


def is_hollow(signature: Signature, args: tuple[Any, ...], outputs: Sequence[Output]) -> bool:
    """Whether a tensor or a result is empty."""
    tensors = (args[k] for k in signature.tensors if args[k] is not None)
    return any(0 in x.shape for x in (*outputs, *tensors))


def _maker(output: Output) -> Callable[[], Tensor]:
    # By strides: two thirds of the time that a memory format takes.
    return functools.partial(
        torch.empty_strided, tuple(output.shape), output.strides(), dtype=output.dtype, device=output.device
    )
