"""attentional_blend: a mix of two feature maps by local and global attention.

    m = σ(local + global),   out = m x + (1 − m) y          x, y, local, out: (N, C, H, W),  global: (N, C, 1, 1)

Adjoint, with g the gradient of out:

    grad_x = m g,   grad_y = (1 − m) g,   grad_local = m (1 − m) (x − y) g,   grad_global = Σ grad_local over H and W

Saved: x, y and both logits; the backward pass recomputes m. Eager PyTorch keeps x, y, m and 1 − m.

Bytes: 4|x| forward and 7|x| backward; eager PyTorch moves 15 and 21, in six kernels and nine.
Memory format of the result: that of the first of x, y and local that is not expanded.

    cpu     attentional_blend.cpp          one pass forward, one backward with the sum in it, any strides
    cuda    attentional_blend.cu           the same functions; channels-last sums in two steps, without atomics
    triton  kernels/attentional_blend.py   likewise

Source: Dai et al., Attentional Feature Fusion (arXiv 2009.14082), equations 3 and 4: AFF after its two branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_channel_values, check_same_shape, memory_format
from fastiqa.runtime.op import Map, Op


def reference(x: Tensor, y: Tensor, local_logits: Tensor, global_logits: Tensor) -> Tensor:
    """Weighted mean of two maps in one pass; the weight is the sigmoid of local plus global attention.

    Equivalent to ``m * x + (1 - m) * y`` with ``m = torch.sigmoid(local_logits + global_logits)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        y: as `x`.
        local_logits: as `x`, before the sigmoid.
        global_logits: (N, C, 1, 1), before the sigmoid.

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import attentional_blend
        >>> x, y, local = torch.randn(3, 1, 8, 4, 4)
        >>> out = attentional_blend(x, y, 0 * local, torch.zeros(1, 8, 1, 1))
        >>> torch.equal(out, x / 2 + y / 2)
        True
    """
    m = torch.sigmoid(local_logits + global_logits)
    return m * x + (1 - m) * y


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = attentional_blend_backward(grad, saved.x, saved.y, saved.local_logits, saved.global_logits)
    return tuple(gradient if needed else None for gradient, needed in zip(gradients, saved.needs, strict=True))


def layout(x: Tensor, y: Tensor, local_logits: Tensor, global_logits: Tensor) -> tuple[Output]:
    check_same_shape(("x", "y", "local_logits"), x, y, local_logits)
    check_channel_values(("global_logits",), x, global_logits)
    return (Output(x.shape, x.dtype, x.device, memory_format(x, y, local_logits)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, ...]]:
    yield *(Map((n, c, h, w)),) * 3, Map((n, c, 1, 1))


attentional_blend = Op(
    "attentional_blend(Tensor x, Tensor y, Tensor local_logits, Tensor global_logits) -> Tensor",
    reference,
    adjoint,
    layout=layout,
    saves=("x", "y", "local_logits", "global_logits"),
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda x, y, local_logits, global_logits: 4 * x.nbytes + global_logits.nbytes,
)


def backward_reference(
    grad: Tensor, x: Tensor, y: Tensor, local_logits: Tensor, global_logits: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `attentional_blend` for x, y, local_logits and global_logits.

    Equivalent to what autograd computes from ``m * x + (1 - m) * y``.

    Args:
        grad, x, y, local_logits: (N, C, H, W).
        global_logits: (N, C, 1, 1).

    Returns:
        Three of (N, C, H, W) and one of (N, C, 1, 1). Dtypes and strides as in `attentional_blend`.

    Raises:
        TypeError, ValueError: as `attentional_blend`.
    """
    m = torch.sigmoid(local_logits + global_logits)
    to_local = grad * (x - y) * (1 - m) * m
    return grad * m, grad * (1 - m), to_local, to_local.sum((2, 3), keepdim=True)


def backward_adjoint(saved: Any, to_x: Tensor, to_y: Tensor, to_local: Tensor, to_global: Tensor) -> Any:
    # All in the accumulation type: the errors of eager's 16-bit kernels are not worth matching.
    dtype = torch.promote_types(saved.x.dtype, torch.float32)
    tensors = (saved.grad, saved.x, saved.y, saved.local_logits, saved.global_logits, to_x, to_y, to_local, to_global)
    grad, x, y, local, global_, to_x, to_y, to_local, to_global = (tensor.to(dtype) for tensor in tensors)
    m = torch.sigmoid(local + global_)
    slope = m * (1 - m)
    to_logits = to_local + to_global

    def logits() -> Tensor:
        return grad * slope * (to_x - to_y + to_logits * (1 - 2 * m) * (x - y))

    results = (
        lambda: m * to_x + (1 - m) * to_y + to_logits * slope * (x - y),
        lambda: to_logits * slope * grad,
        lambda: -to_logits * slope * grad,
        logits,
        lambda: logits().sum((2, 3), keepdim=True),
    )
    return tuple(
        result().to(saved.x.dtype) if needed else None for needed, result in zip(saved.needs, results, strict=True)
    )


def backward_layout(
    grad: Tensor, x: Tensor, y: Tensor, local_logits: Tensor, global_logits: Tensor
) -> tuple[Output, Output, Output, Output]:
    check_same_shape(("grad", "x", "y", "local_logits"), grad, x, y, local_logits)
    check_channel_values(("global_logits",), grad, global_logits)
    one = Output(x.shape, x.dtype, x.device, memory_format(x, y, local_logits, grad))
    return one, one, one, Output(global_logits.shape, x.dtype, x.device)


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, ...]]:
    yield *(Map((n, c, h, w)),) * 4, Map((n, c, 1, 1))


attentional_blend_backward = Op(
    "attentional_blend_backward(Tensor grad, Tensor x, Tensor y, Tensor local_logits, Tensor global_logits)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    layout=backward_layout,
    saves=("grad", "x", "y", "local_logits", "global_logits"),
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad, x, y, local_logits, global_logits: 7 * x.nbytes + 2 * global_logits.nbytes,
)
