"""cross_difference: differences of a reference's features from those of two candidates.

    y = [ref − a, ref − b]                         ref, a, b: (N, C, H, W),  y: (N, 2C, H, W)

Adjoint, with g = [ga, gb] the gradient of y:

    grad_ref = ga + gb,   grad_a = −ga,   grad_b = −gb

The adjoint of that map is cross_difference again, so two kernels serve derivatives of every order. Saved: nothing.

Bytes: 5|ref| forward and 5|ref| backward; eager PyTorch moves 10 and 7, in three kernels each.
Memory format of the result: that of the first argument that is not expanded, as in PyTorch.

    cpu     cross_difference.cpp          one element-wise pass over five maps, any strides
    cuda    cross_difference.cu           the same source, 16 bytes a thread and operand where addresses allow
    triton  kernels/cross_difference.py   tiles of rows, any strides

Exact: every result is one subtraction or addition, rounded once, so all backends equal eager PyTorch bit for bit.
Source: the cross subtraction block of PRFNet (arXiv 2401.06992, section 2.2), equations 1 and 2 before the convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_same_shape, memory_format
from fastiqa.runtime.op import Map, Op


def reference(ref: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Differences of a reference's feature maps from those of two candidates, along the channels, in one pass.

    Equivalent to ``torch.cat([ref - a, ref - b], 1)``.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.

    Returns:
        (N, 2C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that differ, or not four dimensions.

    Example:
        >>> import torch
        >>> from fastiqa.ops import cross_difference
        >>> ref, a, b = torch.rand(3, 1, 8, 4, 4)
        >>> torch.equal(cross_difference(ref, a, b), torch.cat([ref - a, ref - b], 1))
        True
    """
    return torch.cat([ref - a, ref - b], 1)


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if all(saved.needs):
        return cross_difference_backward(grad)  # type: ignore[no-any-return]
    ga, gb = grad.chunk(2, 1)
    return tuple(
        result() if needed else None
        for needed, result in zip(saved.needs, (lambda: ga + gb, lambda: -ga, lambda: -gb), strict=True)
    )


def layout(ref: Tensor, a: Tensor, b: Tensor) -> tuple[Output]:
    check_same_shape(("ref", "a", "b"), ref, a, b)
    n, c, h, w = ref.shape
    return (Output((n, 2 * c, h, w), ref.dtype, ref.device, memory_format(ref, a, b)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map, Map]]:
    yield (Map((n, c, h, w)),) * 3


cross_difference = Op(
    "cross_difference(Tensor ref, Tensor a, Tensor b) -> Tensor",
    reference,
    adjoint,
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda ref, a, b: 5 * ref.nbytes,
    exact=True,
)


def backward_reference(grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `cross_difference` for ref, a and b.

    Equivalent to ``ga, gb = grad.chunk(2, 1)`` and ``(ga + gb, -ga, -gb)``.

    Args:
        grad: (N, 2C, H, W), the gradient of the result; dtypes and strides as in `cross_difference`.

    Returns:
        Three of (N, C, H, W) in `grad`'s dtype.

    Raises:
        TypeError, ValueError: as `cross_difference`.
    """
    ga, gb = grad.chunk(2, 1)
    return ga + gb, -ga, -gb


def backward_adjoint(saved: Any, to_ref: Tensor, to_a: Tensor, to_b: Tensor) -> Tensor:
    return cross_difference(to_ref, to_a, to_b)  # type: ignore[no-any-return]


def backward_layout(grad: Tensor) -> tuple[Output, Output, Output]:
    check_maps(("grad",), grad)
    n, c, h, w = grad.shape
    if c % 2 != 0:
        raise ValueError(f"grad: got shape {tuple(grad.shape)}, want an even number of channels")
    one = Output((n, c // 2, h, w), grad.dtype, grad.device, memory_format(grad))
    return one, one, one


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map]]:
    yield (Map((n, 2 * c, h, w)),)


cross_difference_backward = Op(
    "cross_difference_backward(Tensor grad) -> (Tensor, Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda grad: 5 * grad.nbytes // 2,
    exact=True,
)
