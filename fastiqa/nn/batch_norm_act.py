"""Batch normalisation and activation in two passes over memory, and a next layer that saves no copy of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fastiqa import reference
from fastiqa.nn.recomputation import running_pass
from fastiqa.ops import batch_norm_act
from fastiqa.runtime.layout import ACCUMULATION


class BatchNormAct2d(reference.BatchNormAct2d):
    """Equivalent to `fastiqa.reference.BatchNormAct2d`: same constructor, parameters, buffers, keys and results.

    In training `fastiqa.ops.batch_norm_act` keeps only the input for the backward pass. The next layer keeps the
    result, unless it is called through `followed_by`. PyTorch's functions run in eval mode, and without an activation,
    where nothing can be fused. There are two exceptions: NCHW maps on a CPU, which PyTorch normalises slowly (256
    channels of 112x112 twice, two threads: 5.3 ms, 1.7 here; with the gradient 7.5 and 4.5), and a block that the
    backward pass recomputes, where the running statistics must not change again.

    Example:
        >>> import torch
        >>> norm, conv = BatchNormAct2d(16), torch.nn.Conv2d(16, 8, 3)
        >>> x = torch.randn(2, 16, 14, 14)
        >>> torch.allclose(norm(x), torch.relu(torch.nn.BatchNorm2d(16)(x)), atol=1e-5)
        True
        >>> torch.equal(norm.followed_by(x, conv), conv(norm(x)))
        True

    Source: arXiv 1502.03167.
    """

    asks_pass = True  # see fastiqa.nn.recomputation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        slow = x.device.type == "cpu" and x.is_contiguous()
        fused = self.negative_slope != 1 or slow or running_pass() is not None
        if not self.training or not fused:
            return super().forward(x)
        return self._normalised(x)

    def followed_by(self, x: Tensor, layer: Callable[[Tensor], Any]) -> Any:
        """Compute ``layer(self(x))``; the backward pass recomputes ``self(x)`` instead of keeping it.

        Whatever `layer` saves of its argument, or of views of it, is dropped; `x` stays, which this module keeps
        anyway. Each backward pass costs one more forward pass of this module.

        Raises:
            RuntimeError: in the backward pass, if `x` was changed in place after the call.
        """
        drops = self.training and torch.is_grad_enabled()
        if not drops or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return layer(self(x))
        result = self._normalised(x)
        again = _Recomputation(self, x, result)
        with saved_tensors_hooks(again.pack, _unpack):
            return layer(result)

    def _normalised(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if count == 1:
            raise ValueError(f"x: got shape {tuple(x.shape)}, want more than one value per channel in training")
        out, mean, rstd = batch_norm_act(x, *self._affine(x), self.negative_slope, self.eps)
        if count and running_pass() != "again":
            self._track(mean, rstd, count)
        return out

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias; ones and zeros where a user removed them."""
        weight, bias = self.weight, self.bias
        if weight is None:
            weight = x.new_ones(x.shape[1], dtype=ACCUMULATION[x.dtype])
        if bias is None:
            bias = x.new_zeros(x.shape[1], dtype=ACCUMULATION[x.dtype])
        return weight, bias

    @torch.no_grad()
    def _track(self, mean: Tensor, rstd: Tensor, count: int) -> None:
        """Blend the batch's mean and unbiased variance into the running statistics."""
        if (
            running_pass() == "again"
            or not self.track_running_stats
            or self.running_mean is None
            or self.running_var is None
        ):
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        variance = (rstd.square().reciprocal_() - self.eps).mul_(count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Recomputation:
    """Recomputes a result, once for all views saved of it, and goes with the last of them."""

    def __init__(self, norm: BatchNormAct2d, x: Tensor, result: Tensor) -> None:
        weight, bias = (column.detach() for column in norm._affine(x))
        self._arguments = (x.detach(), weight, bias, norm.negative_slope, norm.eps)
        self._version = x._version
        self._storage = result.untyped_storage()._cdata
        self._result: Tensor | None = None

    def pack(self, saved: Tensor) -> Tensor | _DroppedView:
        if saved.untyped_storage()._cdata != self._storage:
            return saved
        return _DroppedView(self, saved.size(), saved.stride(), saved.storage_offset())

    def result(self) -> Tensor:
        if self._result is None:
            if self._arguments[0]._version != self._version:
                raise RuntimeError("x: changed in place after BatchNormAct2d.followed_by, whose backward pass needs it")
            with torch.no_grad():
                self._result = batch_norm_act(*self._arguments)[0]
        return self._result


class _DroppedView(NamedTuple):
    """Stands for a saved view of a result that was dropped."""

    of: _Recomputation
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


def _unpack(saved: Tensor | _DroppedView) -> Tensor:
    if isinstance(saved, _DroppedView):
        return saved.of.result().as_strided(saved.size, saved.stride, saved.offset)
    return saved
