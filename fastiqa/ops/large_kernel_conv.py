"""large_kernel_conv: the two depthwise convolutions of large-kernel attention, a 23x23 field with 74 weights.

    t = dw5(x) + b5,   y = dw7(t) + b7          x, t, y: (N, C, H, W),  w5: (C, 1, 5, 5),  w7: (C, 1, 7, 7),  b: (C)

dw5 is a depthwise 5×5 convolution with padding 2, dw7 one of 7×7 with dilation 3 and padding 9. Each pads with zeros:
t is zero outside the map, whatever dw5 would give there.

Adjoint, with g the gradient of y, ᵀ the adjoint (the kernel turned by 180°) and ⋆ a correlation over all samples:

    gt = dw7ᵀ(g),   grad_x = dw5ᵀ(gt),   grad_w5 = x ⋆ gt,   grad_b5 = Σ gt,   grad_w7 = t ⋆ g,   grad_b7 = Σ g

Saved: x, w5, b5 and w7; the backward pass recomputes t. y is linear in x, in w5 (with b5) and in w7, so derivatives of
every order are sums of these operators with one argument replaced.

Bytes: 2|x| forward, 3|x| backward (74 and 173 multiply-adds an element); eager PyTorch moves 4|x| and 8|x|.
Memory format of the result: that of x.

    cpu     large_kernel_conv.cpp          t in a ring of rows, a vector of channels a pixel; any strides
    cuda    large_kernel_conv.cu           t in shared memory, tiles with halo; any strides
    triton  kernels/large_kernel_conv.py   t in memory, two passes of 4|x| (6|x| in 16-bit types); any strides

t is not rounded to bfloat16 or float16, as eager PyTorch's is.
Source: Visual Attention Network (arXiv 2202.09741, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import FLOATING, Output, check_maps, check_not_empty, memory_format
from fastiqa.runtime.op import Map, Op

Maps = tuple[Map, ...]


def reference(x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, b7: Tensor) -> Tensor:
    """A depthwise 5×5 convolution, then a depthwise 7×7 convolution of dilation 3, in one pass.

    Equivalent to ``t = conv2d(x, w5, b5, padding=2, groups=C)`` and ``conv2d(t, w7, b7, padding=9, dilation=3,
    groups=C)``.

    Args:
        x: (N, C, H, W) float64, float32, bfloat16 or float16, any strides, any sizes.
        w5: (C, 1, 5, 5).
        b5: (C).
        w7: (C, 1, 7, 7).
        b7: (C).

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit.

    Example:
        >>> import torch
        >>> from fastiqa.ops import large_kernel_conv
        >>> w5, w7 = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 7, 7)
        >>> w5[..., 2, 2], w7[..., 3, 3] = 2.0, 3.0
        >>> large_kernel_conv(torch.ones(1, 1, 1, 2), w5, torch.ones(1), w7, torch.zeros(1)).tolist()
        [[[[9.0, 9.0]]]]
    """
    c = x.shape[1]
    t = conv2d(x, w5, b5, padding=2, groups=c)
    return conv2d(t, w7, b7, padding=9, dilation=3, groups=c)


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if any(saved.needs[1:]):
        gradients = large_kernel_conv_backward(saved.x, saved.w5, saved.b5, saved.w7, grad)
        return tuple(g if needed else None for g, needed in zip(gradients, saved.needs, strict=True))
    return large_kernel_conv_input_backward(grad, saved.w5, saved.w7), None, None, None, None


def check_weights(x_name: str, x: Tensor, **weights: Tensor) -> None:
    """Check weights and biases, by name, for the map `x`."""
    check_maps((x_name,), x)
    check_not_empty(x_name, x)
    c = x.shape[1]
    shapes = {"w5": (c, 1, 5, 5), "w7": (c, 1, 7, 7)}
    for name, weight in weights.items():
        if weight.dtype not in FLOATING:
            raise TypeError(f"{name}: got dtype {weight.dtype}, want float64, float32, bfloat16 or float16")
        want = shapes.get(name, (c,))
        if tuple(weight.shape) != want:
            raise ValueError(f"{name}: got shape {tuple(weight.shape)}, want {want} for {c} channels of {x_name}")
        if weight.device != x.device:
            raise ValueError(f"{name}: got a tensor on {weight.device}, want {x.device}, where {x_name} is")


def layout(x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, b7: Tensor) -> tuple[Output]:
    check_weights("x", x, w5=w5, b5=b5, w7=w7, b7=b7)
    return (Output(x.shape, x.dtype, x.device, memory_format(x)),)


def weights(c: int) -> tuple[Map, Map, Map, Map]:
    return Map((c, 1, 5, 5)), Map((c,)), Map((c, 1, 7, 7)), Map((c,))


def samples(n: int, c: int, h: int, w: int) -> Iterator[Maps]:
    yield Map((n, c, h, w)), *weights(c)


large_kernel_conv = Op(
    "large_kernel_conv(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor b7) -> Tensor",
    reference,
    adjoint,
    saves=("x", "w5", "b5", "w7"),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    autocast="lower",
    batched=("x",),
    samples=samples,
    bytes=lambda x, w5, b5, w7, b7: 2 * x.nbytes,
)


def _turned(weight: Tensor) -> Tensor:
    return weight.flip(2, 3)


def input_backward_reference(grad: Tensor, w5: Tensor, w7: Tensor) -> Tensor:
    """Gradient of `large_kernel_conv` for `x` alone, where no weight needs one.

    Args:
        grad: (N, C, H, W), the gradient of the result; dtypes and strides as in `large_kernel_conv`.
        w5: (C, 1, 5, 5).
        w7: (C, 1, 7, 7).

    Returns:
        (N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `large_kernel_conv`.
    """
    c = grad.shape[1]
    between = conv2d(grad, _turned(w7), padding=9, dilation=3, groups=c)
    return conv2d(between, _turned(w5), padding=2, groups=c)


def input_backward_adjoint(saved: Any, to_x: Tensor) -> tuple[Tensor | None, ...]:
    grad, w5, w7 = saved.grad, saved.w5, saved.w7
    none = torch.zeros_like(w5[:, 0, 0, 0])
    needs_grad, needs_w5, needs_w7 = saved.needs
    to_grad = large_kernel_conv(to_x, w5, none, w7, none) if needs_grad else None
    if not (needs_w5 or needs_w7):
        return to_grad, None, None
    _, to_w5, _, to_w7, _ = large_kernel_conv_backward(to_x, w5, none, w7, grad)
    return to_grad, to_w5, to_w7


def input_backward_layout(grad: Tensor, w5: Tensor, w7: Tensor) -> tuple[Output]:
    check_weights("grad", grad, w5=w5, w7=w7)
    return (Output(grad.shape, grad.dtype, grad.device, memory_format(grad)),)


def input_backward_samples(n: int, c: int, h: int, w: int) -> Iterator[Maps]:
    w5, _, w7, _ = weights(c)
    yield Map((n, c, h, w)), w5, w7


large_kernel_conv_input_backward = Op(
    "large_kernel_conv_input_backward(Tensor grad, Tensor w5, Tensor w7) -> Tensor",
    input_backward_reference,
    input_backward_adjoint,
    saves=("grad", "w5", "w7"),
    layout=input_backward_layout,
    backends=(cuda(), triton(), cpu()),
    autocast="lower",
    batched=("grad",),
    samples=input_backward_samples,
    bytes=lambda grad, w5, w7: 2 * grad.nbytes,
)


def backward_reference(
    x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `large_kernel_conv` for x, w5, b5, w7 and b7.

    Args:
        x: (N, C, H, W); dtypes and strides as in `large_kernel_conv`.
        w5: (C, 1, 5, 5).
        b5: (C).
        w7: (C, 1, 7, 7).
        grad: (N, C, H, W), the gradient of the result.

    Returns:
        (N, C, H, W), (C, 1, 5, 5), (C), (C, 1, 7, 7) and (C) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `large_kernel_conv`.
    """
    c = x.shape[1]
    if x.numel() == 0:  # where PyTorch's convolution_backward has no derivatives
        nothing = x.sum() + grad.sum() + 0 * (w5.sum() + b5.sum() + w7.sum())
        zero = torch.zeros_like
        return x + nothing, zero(w5) + nothing, zero(b5) + nothing, zero(w7) + nothing, zero(b5) + nothing

    def gradients(of: Tensor, source: Tensor, weight: Tensor, dilation: int, mask: list[bool]) -> Any:
        padding = dilation * (weight.shape[2] // 2)
        return torch.ops.aten.convolution_backward(
            of, source, weight, [c], [1, 1], [padding] * 2, [dilation] * 2, False, [0, 0], c, mask
        )

    t = conv2d(x, w5, b5, padding=2, groups=c)
    x, w5, w7, grad = (tensor.to(t.dtype) for tensor in (x, w5, w7, grad))  # autocast changes the dtype of t alone
    to_t, to_w7, to_b7 = gradients(grad, t, w7, 3, [True] * 3)
    to_x, to_w5, to_b5 = gradients(to_t, x, w5, 1, [True] * 3)
    return to_x, to_w5, to_b5, to_w7, to_b7


def backward_adjoint(
    saved: Any, to_x: Tensor, to_w5: Tensor, to_b5: Tensor, to_w7: Tensor, to_b7: Tensor
) -> tuple[Tensor | None, ...]:
    # The gradients, weighed by the tensors given here, add up to <y', grad>, where y' is the derivative of y in that
    # direction: y with x and both biases replaced, plus y with w5, plus y with w7.
    x, w5, b5, w7, grad = saved.x, saved.w5, saved.b5, saved.w7, saved.grad
    none = torch.zeros_like(b5)
    needs_x, needs_w5, needs_b5, needs_w7, needs_grad = saved.needs
    result: list[Tensor | None] = [None] * 5
    if needs_x or needs_w5 or needs_b5 or needs_w7:
        of_x = large_kernel_conv_backward(to_x, w5, to_b5, w7, grad)
        of_w5 = large_kernel_conv_backward(x, to_w5, none, w7, grad)
        of_w7 = large_kernel_conv_backward(x, w5, b5, to_w7, grad)
        result[0] = of_w5[0] + of_w7[0]
        result[1] = of_x[1] + of_w7[1]
        result[2] = of_w7[2]
        result[3] = of_x[3] + of_w5[3]
    if needs_grad:
        result[4] = (
            large_kernel_conv(to_x, w5, to_b5, w7, to_b7)
            + large_kernel_conv(x, to_w5, none, w7, none)
            + large_kernel_conv(x, w5, b5, to_w7, none)
        )
    return tuple(g if needed else None for g, needed in zip(result, saved.needs, strict=True))


def backward_layout(x: Tensor, w5: Tensor, b5: Tensor, w7: Tensor, grad: Tensor) -> tuple[Output, ...]:
    check_weights("x", x, w5=w5, b5=b5, w7=w7)
    check_maps(("x", "grad"), x, grad)
    if grad.shape != x.shape:
        raise ValueError(f"grad: got shape {tuple(grad.shape)}, want that of x, {tuple(x.shape)}")
    c = x.shape[1]
    shapes = ((c, 1, 5, 5), (c,), (c, 1, 7, 7), (c,))
    to_x = Output(x.shape, x.dtype, x.device, memory_format(x, grad))
    return (to_x, *(Output(shape, x.dtype, x.device) for shape in shapes))


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[Maps]:
    w5, b5, w7, _ = weights(c)
    yield Map((n, c, h, w)), w5, b5, w7, Map((n, c, h, w))


large_kernel_conv_backward = Op(
    "large_kernel_conv_backward(Tensor x, Tensor w5, Tensor b5, Tensor w7, Tensor grad)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    backward_reference,
    backward_adjoint,
    saves=("x", "w5", "b5", "w7", "grad"),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    autocast="lower",
    batched=(),
    samples=backward_samples,
    bytes=lambda x, w5, b5, w7, grad: 3 * x.nbytes,
)
