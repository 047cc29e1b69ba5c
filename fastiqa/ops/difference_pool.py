"""difference_pool: gated sums of differences at every offset of a small kernel, without differences in memory.

With d_s = ref − s for s in a, b, zero outside, and p over all pixels:

    y[n,s,c,i,j] = Σ_p gate[n,0,p] · d_s[n,c,p + (i,j) − ⌊k/2⌋]         gate: (N, 1, H, W),  y: (N, 2, C, k, k)

The kernel times y is a convolution of gated differences, summed over the pixels.

Adjoint: y is a gradient of difference_response for a weight per sample, so with g the gradient of y as such a weight

    grad_ref, grad_a, grad_b = difference_response_backward(gate, g),   grad_gate = difference_response(ref, a, b, g)

Bytes: 3|ref| forward and 6|ref| backward; eager PyTorch moves 9|ref| and more forward, k² times over for a k×k kernel.

    cpu     difference_pool.cpp          as difference_response: products of small matrices
    cuda    difference_pool.cu
    triton  kernels/difference_pool.py

Source: the gated last stage of PRFNet (arXiv 2401.06992, section 2.2) under global average pooling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fastiqa.ops.difference_response import (
    KERNEL_SIZES,
    difference_response,
    difference_response_backward,
    is_channels_last,
    weight_reference,
)
from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import Output, check_maps, check_pixels_fit_32_bits, check_same_shape
from fastiqa.runtime.op import Map, Op


def reference(ref: Tensor, a: Tensor, b: Tensor, gate: Tensor, kernel_size: int = 1) -> Tensor:
    """Sum a reference's gated differences from two candidates over the pixels, for each tap of a small kernel.

    Equivalent to ``torch.stack([gate * (ref - a), gate * (ref - b)], 1).sum((-2, -1))`` for one tap; tap (i, j) of a
    larger kernel takes the differences (i, j) − k // 2 away, zero beyond the border.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.
        gate: (N, 1, H, W).
        kernel_size: k, 1 or 3.

    Returns:
        (N, 2, C, k, k) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, another kernel size.

    Example:
        >>> import torch
        >>> from fastiqa.ops import difference_pool
        >>> ref, a, b = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1, 1, 1)
        >>> difference_pool(ref, a, b, torch.full((1, 1, 1, 1), 0.5)).flatten().tolist()
        [1.0, 2.0]
    """
    c = ref.shape[1]
    return weight_reference(ref, a, b, gate, kernel_size, True).squeeze(1).unflatten(1, (2, c))  # type: ignore[no-any-return]


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ref, a, b, gate = saved.ref, saved.a, saved.b, saved.gate
    *inputs, needs_gate = saved.needs
    n, two, c, *size = grad.shape
    as_weight = grad.reshape(n, 1, two * c, *size)  # flatten has no batching rule for autograd's batches
    to_inputs: tuple[Tensor | None, ...] = (None, None, None)
    if any(inputs):
        to_inputs = difference_response_backward(gate, as_weight, is_channels_last(ref, a, b)).chunk(3)
    return (*to_inputs, difference_response(ref, a, b, as_weight) if needs_gate else None)


def layout(ref: Tensor, a: Tensor, b: Tensor, gate: Tensor, kernel_size: int = 1) -> tuple[Output]:
    check_same_shape(("ref", "a", "b"), ref, a, b)
    check_pixels_fit_32_bits("ref", ref)
    check_maps(("ref", "gate"), ref, gate)
    n, c, h, w = ref.shape
    if gate.shape != (n, 1, h, w):
        raise ValueError(f"gate: got shape {tuple(gate.shape)}, want {(n, 1, h, w)}")
    if kernel_size not in KERNEL_SIZES:
        raise ValueError(f"kernel_size: got {kernel_size}, want 1 or 3")
    return (Output((n, 2, c, kernel_size, kernel_size), ref.dtype, ref.device),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map | int, ...]]:
    x = Map((n, c, h, w))
    yield x, x, x, Map((n, 1, h, w)), 1
    yield x, x, x, Map((n, 1, h, w)), 3


difference_pool = Op(
    "difference_pool(Tensor ref, Tensor a, Tensor b, Tensor gate, int kernel_size=1) -> Tensor",
    reference,
    adjoint,
    saves=("ref", "a", "b", "gate"),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda ref, a, b, gate, kernel_size=1: 3 * ref.nbytes + gate.nbytes,
    autocast="lower",
)
