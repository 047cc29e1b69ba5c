"""scale_residual_relu: the tail of a squeeze-and-excitation bottleneck.

    y = relu(x · σ(gate) + residual)               x, residual, y: (N, C, H, W),  gate: (N, C, 1, 1) logits

Adjoint, with s = σ(gate) and m = g where y > 0, else 0:

    grad_x = m s,   grad_residual = m,   grad_gate = s (1 − s) Σ m x, the sum over H and W

Saved: x, gate and y. The next layer keeps y for its gradient anyway, so only x stays in memory for this operator. Eager
PyTorch keeps x and y too, and needs two more maps on the way. (y − residual could replace x s, and an identity block
keeps the residual as well, but the difference of two rounded numbers is too coarse.)

Bytes: 3|x| forward and 5|x| backward; eager PyTorch moves 7 and 8, in four kernels and six.
Memory format of the result: that of the first of x and residual that is not expanded.

    cpu     scale_residual_relu.cpp          one pass forward, one backward with the sum in it, any strides
    cuda    scale_residual_relu.cu           the same functions; channels-last sums in two steps, without atomics
    triton  kernels/scale_residual_relu.py   likewise

Source: Hu et al., Squeeze-and-Excitation Networks (arXiv 1709.01507), figure 3: scale, sum and ReLU of SE-ResNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_channel_values, check_same_shape, memory_format
from fastiqa.runtime.op import Map, Op


def reference(x: Tensor, gate_logits: Tensor, residual: Tensor) -> Tensor:
    """Gate channels, add the shortcut and rectify, in one pass.

    Equivalent to ``torch.relu(x * torch.sigmoid(gate_logits) + residual)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        gate_logits: (N, C, 1, 1), before the sigmoid.
        residual: as `x`.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import scale_residual_relu
        >>> x, residual = torch.randn(2, 1, 8, 4, 4)
        >>> gate = torch.zeros(1, 8, 1, 1)
        >>> torch.equal(scale_residual_relu(x, gate, residual), torch.relu(x / 2 + residual))
        True
    """
    return torch.relu(x * torch.sigmoid(gate_logits) + residual)


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Detached: the result only decides where the gradient passes, which has no derivative.
    gradients = scale_residual_relu_backward(grad, saved.x, saved.gate_logits, saved.out.detach())
    return tuple(gradient if needed else None for gradient, needed in zip(gradients, saved.needs, strict=True))


def layout(x: Tensor, gate_logits: Tensor, residual: Tensor) -> tuple[Output]:
    check_same_shape(("x", "residual"), x, residual)
    check_channel_values(("gate_logits",), x, gate_logits)
    return (Output(x.shape, x.dtype, x.device, memory_format(x, residual)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, Map]]:
    yield Map((n, c, h, w)), Map((n, c, 1, 1)), Map((n, c, h, w))


scale_residual_relu = Op(
    "scale_residual_relu(Tensor x, Tensor gate_logits, Tensor residual) -> (Tensor out)",
    reference,
    adjoint,
    layout=layout,
    saves=("x", "gate_logits", "out"),
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x, gate_logits, residual: 3 * x.nbytes + gate_logits.nbytes,
)


def _passed(grad: Tensor, out: Tensor) -> Tensor:
    """`grad` where `out` is positive (or NaN), else 0. No gradient flows to `out`."""
    return torch.ops.aten.threshold_backward(grad, out, 0)  # type: ignore[no-any-return]


def _total(x: Tensor) -> Tensor:
    return x.sum((2, 3), keepdim=True)


def backward_reference(grad: Tensor, x: Tensor, gate_logits: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `scale_residual_relu` for x, gate_logits and residual.

    Equivalent to what autograd computes from ``torch.relu(x * torch.sigmoid(gate_logits) + residual)``, given its
    result. Only the sign of `out` counts; its gradient is zero.

    Args:
        grad, x, out: (N, C, H, W).
        gate_logits: (N, C, 1, 1).

    Returns:
        (N, C, H, W), (N, C, 1, 1) and (N, C, H, W). Dtypes and strides as in `scale_residual_relu`.

    Raises:
        TypeError, ValueError: as `scale_residual_relu`.
    """
    s = torch.sigmoid(gate_logits)
    passed = _passed(grad, out)
    return passed * s, _total(passed * x) * (1 - s) * s, passed


def backward_adjoint(saved: Any, to_x: Tensor, to_gate: Tensor, to_residual: Tensor) -> tuple[Tensor | None, ...]:
    # All in the accumulation type: the errors of eager's 16-bit kernels are not worth matching.
    dtype = torch.promote_types(saved.x.dtype, torch.float32)
    tensors = (saved.grad, saved.x, saved.gate_logits, saved.out, to_x, to_gate, to_residual)
    grad, x, gate, out, to_x, to_gate, to_residual = (tensor.to(dtype) for tensor in tensors)
    s = torch.sigmoid(gate)
    slope = s * (1 - s)
    passed = _passed(grad, out)
    results = (
        lambda: _passed(to_x * s + to_gate * slope * x + to_residual, out),
        lambda: passed * (to_gate * slope),
        lambda: slope * (_total(passed * to_x) + to_gate * (1 - 2 * s) * _total(passed * x)),
        lambda: torch.zeros_like(out),
    )
    return tuple(
        result().to(saved.x.dtype) if needed else None for needed, result in zip(saved.needs, results, strict=True)
    )


def backward_layout(grad: Tensor, x: Tensor, gate_logits: Tensor, out: Tensor) -> tuple[Output, Output, Output]:
    check_same_shape(("grad", "x", "out"), grad, x, out)
    check_channel_values(("gate_logits",), grad, gate_logits)
    one = Output(x.shape, x.dtype, x.device, memory_format(x, grad))
    return one, Output(gate_logits.shape, x.dtype, x.device), one


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, Map, Map]]:
    yield Map((n, c, h, w)), Map((n, c, h, w)), Map((n, c, 1, 1)), Map((n, c, h, w))


scale_residual_relu_backward = Op(
    "scale_residual_relu_backward(Tensor grad, Tensor x, Tensor gate_logits, Tensor out) -> (Tensor, Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    layout=backward_layout,
    saves=("grad", "x", "gate_logits", "out"),
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad, x, gate_logits, out: 5 * x.nbytes + 2 * gate_logits.nbytes,
)
