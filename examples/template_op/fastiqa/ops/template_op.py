"""template_op: the square with its sign kept.

    y = x · |x|                                    x, y: (N, C, H, W)

Adjoint: grad_x = 2 |x| · g, which needs x.

Bytes: 2|x| forward, 3|x| backward; eager PyTorch moves 5|x| and 8|x|.

    cpu, cuda   template_op.cpp, through csrc/passes/elementwise
    triton      kernels/template_op.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_same_shape, memory_format, one_output_like
from fastiqa.runtime.op import Map, Op


def reference(x: Tensor) -> Tensor:
    """Square of `x` with the sign of `x`.

    Equivalent to ``x * x.abs()``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.

    Returns:
        As `x`.
    """
    return x * x.abs()


def adjoint(saved: Any, grad: Tensor) -> Tensor:
    return template_op_backward(saved.x, grad)


template_op = Op(
    "template_op(Tensor x) -> Tensor",
    reference,
    adjoint,
    saves=("x",),
    layout=one_output_like(0),
    backends=(cuda(), triton(), cpu()),
    samples=lambda n, c, h, w: iter([(Map((n, c, h, w)),)]),
    bytes=lambda x: 2 * x.nbytes,
)


def backward_reference(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `template_op`: (N, C, H, W) twice -> (N, C, H, W). Equivalent to ``2 * x.abs() * grad``."""
    return 2 * x.abs() * grad


def backward_adjoint(saved: Any, to_x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs_x, needs_grad = saved.needs
    return (
        2 * saved.x.sign() * saved.grad * to_x if needs_x else None,
        template_op_backward(saved.x, to_x) if needs_grad else None,
    )


def backward_layout(x: Tensor, grad: Tensor) -> tuple[Output]:
    check_same_shape(("x", "grad"), x, grad)
    return (Output(x.shape, x.dtype, x.device, memory_format(x, grad)),)


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map, Map]]:
    yield Map((n, c, h, w)), Map((n, c, h, w))


template_op_backward = Op(
    "template_op_backward(Tensor x, Tensor grad) -> Tensor",
    backward_reference,
    backward_adjoint,
    saves=("x", "grad"),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda x, grad: 3 * x.nbytes,
)
