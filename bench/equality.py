"""Equality before timing: nobody's time counts whose results are wrong.

A result may be twice as far from float64 as eager PyTorch's own, or one unit in the last place of the largest value,
which is what eager's own error may happen to be zero beside. Results of fastiqa for an operator whose record says
"exact" must equal eager's bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastiqa import ops

from .settings import results


@dataclass(frozen=True)
class Verdict:
    """Why a provider is wrong (None where it is right), its largest error, and that over eager's."""

    wrong: str | None
    error: float
    ratio: float


def wide(args: Sequence[Any]) -> list[Any]:
    return [x.double() if isinstance(x, Tensor) else x for x in args]


def largest_error(got: Tensor, exact: Tensor) -> float:
    """NaN where a result is NaN. By samples: a float64 copy of everything at once would be gigabytes."""
    if got.numel() == 0:
        return 0.0
    pairs = zip(got.unbind(0), exact.unbind(0), strict=True) if got.dim() else [(got, exact)]
    return float(torch.stack([(g.double() - e).abs().max() for g, e in pairs]).max())


class Truth:
    """Results and gradients of an operator's reference in float64 and in the arguments' own dtype."""

    def __init__(self, op: ops.Op, args: Sequence[Any], grads: Sequence[Tensor], gradients: bool) -> None:
        mode = "fwd_bwd" if gradients else "fwd"
        self.exact = results(op.reference, wide(args), [g.double() for g in grads], mode)
        eager = results(op.reference, args, grads, mode)
        self.eager = eager if op.exact else None
        self.errors = [largest_error(e, x) for e, x in zip(eager, self.exact, strict=True)]
        self.units = [
            torch.finfo(e.dtype).eps * float(x.abs().max()) if e.numel() else 0.0
            for e, x in zip(eager, self.exact, strict=True)
        ]

    def judge(self, got: Sequence[Tensor], bitwise: bool) -> Verdict:
        """`got` may be the results alone."""
        wrong = None
        largest = eagers = 0.0
        for k, tensor in enumerate(got):
            if tensor.shape != self.exact[k].shape:
                want = tuple(self.exact[k].shape)
                return Verdict(f"result {k} has shape {tuple(tensor.shape)}, want {want}", float("nan"), float("nan"))
            error, allowed = largest_error(tensor, self.exact[k]), max(2 * self.errors[k], self.units[k])
            if bitwise and self.eager is not None:
                if not torch.equal(tensor, self.eager[k]):
                    wrong = wrong or f"result {k} differs from eager, want equality; its error is {error:.3g}"
            elif not error <= allowed:
                wrong = wrong or f"result {k}: error {error:.3g} against float64, allowed {allowed:.3g}"
            largest = max(largest, error) if error == error else error
            eagers = max(eagers, self.errors[k])
        return Verdict(wrong, largest, _over(largest, eagers))


def _over(error: float, eager: float) -> float:
    if eager == 0:
        return 1.0 if error == 0 else float("inf")
    return error / eager
