"""Equality before timing: a provider with wrong results has no time.

A result may be twice as far from float64 as eager PyTorch's. Where eager's error happens to be zero, one unit in the
last place of the largest value is allowed; a network's record may allow more. The largest error of a few sums is a
matter of luck, so a provider over the limit is judged again by eager's largest error over further draws of the
arguments. fastiqa's results of an operator whose record says "exact" must equal eager's bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cases.networks import Network
from .settings import Setting, output_gradients, results

MORE_DRAWS = 4


@dataclass(frozen=True)
class Verdict:
    """The fault of a provider (None if it passes), its largest error, and the ratio of that to eager's."""

    wrong: str | None
    error: float
    ratio: float


def wide(args: Sequence[Any]) -> list[Any]:
    """The arguments with tensors in float64."""
    return [x.double() if isinstance(x, Tensor) else x for x in args]


def largest_error(got: Tensor, exact: Tensor) -> float:
    """The largest difference, NaN where a result is NaN. By samples: one float64 copy would take gigabytes."""
    if got.numel() == 0:
        return 0.0
    pairs = zip(got.unbind(0), exact.unbind(0), strict=True) if got.dim() else [(got, exact)]
    return float(torch.stack([(g.double() - e).abs().max() for g, e in pairs]).max())


class Truth:
    """Results and gradients of an operator's reference in float64 and in the arguments' own dtype."""

    def __init__(self, setting: Setting, args: Sequence[Any], grads: Sequence[Tensor], gradients: bool) -> None:
        self._setting, self._mode = setting, "fwd_bwd" if gradients else "fwd"
        self.exact, eager = self._both(args, grads)
        self.eager = eager if setting.op.exact else None
        self.tolerance = setting.op.tolerance.get(setting.dtype, 0.0) if isinstance(setting.op, Network) else 0.0
        self.errors = [largest_error(e, x) for e, x in zip(eager, self.exact, strict=True)]
        self._over_draws: list[float] = []
        self.units = [
            torch.finfo(e.dtype).eps * float(x.abs().max()) if e.numel() else 0.0
            for e, x in zip(eager, self.exact, strict=True)
        ]

    def _both(self, args: Sequence[Any], grads: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        reference = self._setting.op.reference
        exact = results(reference, wide(args), [g.double() for g in grads], self._mode)
        return exact, results(reference, args, grads, self._mode)

    def allowed(self, k: int, draws: bool) -> float:
        """The largest allowed error of the k-th tensor, by eager's error for these arguments, or over further draws."""
        if not draws:
            return max(2 * self.errors[k], self.units[k], self.tolerance)
        if not self._over_draws:
            worst = list(self.errors)
            for draw in range(1, MORE_DRAWS + 1):
                args = self._setting.arguments(draw)
                exact, eager = self._both(args, output_gradients(self._setting.op, args, draw))
                worst = [max(w, largest_error(e, x)) for w, e, x in zip(worst, eager, exact, strict=True)]
            self._over_draws = worst
        return max(2 * self._over_draws[k], self.units[k], self.tolerance)

    def judge(self, got: Sequence[Tensor], bitwise: bool) -> Verdict:
        """Judge the results, or the results and gradients; `bitwise` demands equality with eager."""
        wrong = None
        largest = eagers = 0.0
        for k, tensor in enumerate(got):
            if tensor.shape != self.exact[k].shape:
                shape = tuple(self.exact[k].shape)
                return Verdict(f"result {k} has shape {tuple(tensor.shape)}, want {shape}", float("nan"), float("nan"))
            error = largest_error(tensor, self.exact[k])
            if bitwise and self.eager is not None:
                if not torch.equal(tensor, self.eager[k]):
                    wrong = wrong or f"result {k} differs from eager, want equality; its error is {error:.3g}"
            elif not error <= self.allowed(k, draws=False) and not error <= (allowed := self.allowed(k, draws=True)):
                wrong = wrong or f"result {k}: error {error:.3g} against float64, allowed {allowed:.3g}"
            largest = max(largest, error) if error == error else error
            eagers = max(eagers, self.errors[k])
        return Verdict(wrong, largest, _over(largest, eagers))


def _over(error: float, eager: float) -> float:
    if eager == 0:
        return 1.0 if error == 0 else float("inf")
    return error / eager
