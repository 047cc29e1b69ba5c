"""difference_response: a convolution of differences to a few output channels, without differences in memory.

With d = [ref − a, ref − b], (N, 2C, H, W), zero outside, and q = p + t − ⌊k/2⌋ the pixel under tap t of a kernel at p:

    y[n,o,p] = bias[o] + Σ_{c,t} weight[o,c,t] · d[n,c,q]          weight: (K, 2C, k, k),  y: (N, K, H, W)

Every sample may have its own weight, (N, K, 2C, k, k).

Adjoint: y is a derivative of the trilinear form Σ y·weight·d, as are its gradients:

    grad_weight = Σ_p g[n,o,p] · d[n,c,q]               difference_response_weight_backward
    grad_d = [ga, gb] = Σ_{o,t} weight[o,c,t] · g[n,o,p],   grad_ref = ga + gb,  grad_a = −ga,  grad_b = −gb
                                                        difference_response_backward
    grad_bias = Σ_{n,p} g

Each of the three has the other two as its adjoint, so they serve derivatives of every order. The gradients of ref, a
and b follow each other in one tensor, which is the gradient of a batch of all three without a copy.

Bytes: 3|ref| forward, 3|ref| for the gradient of the inputs and 3|ref| for that of the weight; eager PyTorch moves
9|ref| forward, and more if a convolution copies the differences k² times.
Memory format of y: that of the first of ref, a, b that is not expanded.

    cpu     difference_response.cpp          products of small matrices, differences in the first-level cache
    cuda    difference_response.cu           a thread has neighbouring pixels or channels, sums in two steps
    triton  kernels/difference_response.py   the same, in tiles

Source: cross subtraction followed by the mean over the channels of a gate's convolution (arXiv 2401.06992, section
2.2), which is one convolution with the mean of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, fold, unfold

from fastiqa.runtime.dispatch import cpu, cuda, triton
from fastiqa.runtime.layout import (
    Output,
    check_maps,
    check_on_same_device,
    check_pixels_fit_32_bits,
    check_same_shape,
    memory_format,
)
from fastiqa.runtime.op import Map, Op

MOST_OUTPUTS = 16
KERNEL_SIZES = (1, 3)


def reference(ref: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve the differences of a reference's feature maps from those of two candidates, to a few channels.

    Equivalent to ``conv2d(torch.cat([ref - a, ref - b], 1), weight, bias, padding=weight.shape[-1] // 2)``.

    Args:
        ref: (N, C, H, W) float64, float32, bfloat16 or float16, any strides.
        a: as `ref`.
        b: as `ref`.
        weight: (K, 2C, k, k) with K at most 16 and k 1 or 3; or (N, K, 2C, k, k), one for each sample.
        bias: (K,).

    Returns:
        (N, K, H, W) in the widest dtype given; sums are float32, or float64 for float64.

    Raises:
        TypeError: an argument is not a tensor, or its dtype is not floating.
        ValueError: shapes or devices that do not fit, more than 16 outputs, a kernel other than 1x1 and 3x3,
            2**31 pixels.

    Example:
        >>> import torch
        >>> from fastiqa.ops import difference_response
        >>> ref, a, b = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1, 1, 1)
        >>> difference_response(ref, a, b, torch.tensor([10.0, 1.0]).view(1, 2, 1, 1)).item()
        24.0
    """
    differences = torch.cat([ref - a, ref - b], 1)
    if weight.dim() == 4:
        return conv2d(differences, weight, bias, padding=weight.shape[-1] // 2)
    columns = taps(differences, weight.shape[-1])
    y = torch.einsum("nkct,nctp->nkp", weight.flatten(3), columns).unflatten(2, ref.shape[2:])
    return y if bias is None else y + bias[:, None, None]  # type: ignore[no-any-return]


def taps(x: Tensor, kernel_size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, k², H·W): the value under each tap of a kernel at each pixel, zero outside."""
    columns = unfold(x, kernel_size, padding=kernel_size // 2)
    return columns.unflatten(1, (x.shape[1], kernel_size**2))  # type: ignore[no-any-return]


def adjoint(saved: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ref, a, b, weight, k = saved.ref, saved.a, saved.b, saved.weight, saved.weight.shape[-1]
    *inputs, needs_weight, needs_bias = saved.needs
    like_ref = is_channels_last(ref, a, b)
    return (
        *(difference_response_backward(grad, weight, like_ref).chunk(3) if any(inputs) else (None,) * 3),
        difference_response_weight_backward(ref, a, b, grad, k, weight.dim() == 5) if needs_weight else None,
        grad.sum((0, 2, 3)) if needs_bias else None,
    )


def wide(x: Tensor) -> Tensor:  # the kernels' dtype of sums: 16 bits would round a gradient of nine taps nine times
    return x.to(torch.promote_types(x.dtype, torch.float32))


def is_channels_last(*maps: Tensor) -> bool:
    return memory_format(*maps) == torch.channels_last


def check_weight(weight: Tensor, n: int, k: int | None, channels: int | None, name: str, first: Tensor) -> None:
    """Check a weight for these sizes, None for unknown, on the device of the first argument, of that name."""
    check_on_same_device(name, first, "weight", weight)
    shape = tuple(weight.shape)
    if weight.dim() not in (4, 5):
        raise ValueError(f"weight: got shape {shape}, want four dimensions, or five with one for each sample")
    if shape[-1] != shape[-2] or shape[-1] not in KERNEL_SIZES:
        raise ValueError(f"weight: got shape {shape}, want a kernel of 1x1 or 3x3")
    if shape[-4] > MOST_OUTPUTS or shape[-4] < 1:
        raise ValueError(f"weight: got shape {shape}, want 1 to {MOST_OUTPUTS} outputs")
    if shape[-3] % 2 != 0 or shape[-3] == 0:
        raise ValueError(f"weight: got shape {shape}, want at least one channel of two differences")
    for got, want, what in ((shape[-3], channels, "channels"), (shape[-4], k, "outputs"), (shape[0], n, "samples")):
        if want is not None and got != want and (what != "samples" or len(shape) == 5):
            raise ValueError(f"weight: got shape {shape}, want {want} {what}")


def layout(ref: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Output]:
    check_same_shape(("ref", "a", "b"), ref, a, b)
    check_pixels_fit_32_bits("ref", ref)
    n, c, h, w = ref.shape
    check_weight(weight, n, None, 2 * c, "ref", ref)
    k = weight.shape[-4]
    if bias is not None:
        check_on_same_device("ref", ref, "bias", bias)
        if bias.shape != (k,):
            raise ValueError(f"bias: got shape {tuple(bias.shape)}, want ({k},)")
    return (Output((n, k, h, w), ref.dtype, ref.device, memory_format(ref, a, b)),)


def samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map | None, ...]]:
    x = Map((n, c, h, w))
    yield x, x, x, Map((1, 2 * c, 1, 1)), None
    yield x, x, x, Map((2, 2 * c, 3, 3)), Map((2,))


difference_response = Op(
    "difference_response(Tensor ref, Tensor a, Tensor b, Tensor weight, Tensor? bias=None) -> Tensor",
    reference,
    adjoint,
    saves=("ref", "a", "b", "weight"),
    layout=layout,
    backends=(cuda(), triton(), cpu()),
    samples=samples,
    bytes=lambda ref, a, b, weight, bias=None: (
        3 * ref.nbytes + weight.nbytes + ref.nbytes // ref.shape[1] * weight.shape[-4]
    ),
    autocast="lower",
    batched=(),  # every sample may have a weight
)


def backward_reference(grad: Tensor, weight: Tensor, channels_last: bool) -> Tensor:
    """Gradients of `difference_response` for ref, a and b, one after the other in one tensor.

    Args:
        grad: (N, K, H, W), the gradient of the result; dtypes and strides as in `difference_response`.
        weight: (K, 2C, k, k) or (N, K, 2C, k, k).
        channels_last: memory format of the result: channels-last, or NCHW.

    Returns:
        (3N, C, H, W) in the widest dtype given.

    Raises:
        TypeError, ValueError: as `difference_response`.
    """
    each = weight if weight.dim() == 5 else weight.expand(grad.shape[0], *weight.shape)
    columns = wide(each).flatten(2).transpose(1, 2) @ wide(grad).flatten(2)
    k = weight.shape[-1]
    ga, gb = fold(columns, grad.shape[2:], k, padding=k // 2).chunk(2, 1)
    return torch.cat([ga + gb, -ga, -gb]).to(grad.dtype)


def backward_adjoint(saved: Any, to_all: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs_grad, needs_weight = saved.needs
    to_ref, to_a, to_b = to_all.chunk(3)
    k, each = saved.weight.shape[-1], saved.weight.dim() == 5
    return (
        difference_response(to_ref, to_a, to_b, saved.weight) if needs_grad else None,
        difference_response_weight_backward(to_ref, to_a, to_b, saved.grad, k, each) if needs_weight else None,
    )


def backward_layout(grad: Tensor, weight: Tensor, channels_last: bool) -> tuple[Output]:
    check_maps(("grad",), grad)
    check_pixels_fit_32_bits("grad", grad)
    n, k, h, w = grad.shape
    check_weight(weight, n, k, None, "grad", grad)
    form = torch.channels_last if channels_last else torch.contiguous_format
    return (Output((3 * n, weight.shape[-3] // 2, h, w), grad.dtype, grad.device, form),)


def backward_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Map | bool, ...]]:
    yield Map((n, 1, h, w)), Map((1, 2 * c, 1, 1)), False
    yield Map((n, 2, h, w)), Map((n, 2, 2 * c, 3, 3)), True


difference_response_backward = Op(
    "difference_response_backward(Tensor grad, Tensor weight, bool channels_last) -> Tensor",
    backward_reference,
    backward_adjoint,
    saves=("grad", "weight"),
    layout=backward_layout,
    backends=(cuda(), triton(), cpu()),
    samples=backward_samples,
    bytes=lambda g, w, channels_last: g.nbytes + w.nbytes + 3 * g.nbytes // g.shape[1] * w.shape[-3] // 2,
    batched=(),
)


def weight_reference(ref: Tensor, a: Tensor, b: Tensor, grad: Tensor, kernel_size: int, each: bool) -> Tensor:
    """Gradient of `difference_response` for the weight, one for each sample or their sum.

    Args:
        ref, a, b: (N, C, H, W), as in `difference_response`.
        grad: (N, K, H, W), the gradient of the result.
        kernel_size: k, 1 or 3.
        each: whether every sample gets a gradient of its own.

    Returns:
        (N, K, 2C, k, k) with `each`, else (K, 2C, k, k), in the widest dtype given.

    Raises:
        TypeError, ValueError: as `difference_response`.
    """
    columns = taps(torch.cat([ref - a, ref - b], 1), kernel_size)
    sums = torch.einsum("nkp,nctp->nkct" if each else "nkp,nctp->kct", grad.flatten(2), columns)
    return sums.unflatten(-1, (kernel_size, kernel_size))  # type: ignore[no-any-return]


def weight_adjoint(saved: Any, to_weight: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, needs_grad = saved.needs
    ref, a, b = saved.ref, saved.a, saved.b
    like_ref = is_channels_last(ref, a, b)
    return (
        *(difference_response_backward(saved.grad, to_weight, like_ref).chunk(3) if any(inputs) else (None,) * 3),
        difference_response(ref, a, b, to_weight) if needs_grad else None,
    )


def weight_layout(ref: Tensor, a: Tensor, b: Tensor, grad: Tensor, kernel_size: int, each: bool) -> tuple[Output]:
    check_same_shape(("ref", "a", "b"), ref, a, b)
    check_pixels_fit_32_bits("ref", ref)
    check_maps(("ref", "grad"), ref, grad)
    n, c, h, w = ref.shape
    if grad.shape != (n, k := grad.shape[1], h, w) or not 1 <= k <= MOST_OUTPUTS:
        raise ValueError(f"grad: got shape {tuple(grad.shape)}, want ({n}, 1 to {MOST_OUTPUTS}, {h}, {w})")
    if kernel_size not in KERNEL_SIZES:
        raise ValueError(f"kernel_size: got {kernel_size}, want 1 or 3")
    shape = (k, 2 * c, kernel_size, kernel_size)
    return (Output((n, *shape) if each else shape, ref.dtype, ref.device),)


def weight_samples(n: int, c: int, h: int, w: int) -> Iterator[tuple[Any, ...]]:
    x = Map((n, c, h, w))
    yield x, x, x, Map((n, 1, h, w)), 1, True
    yield x, x, x, Map((n, 2, h, w)), 3, False


difference_response_weight_backward = Op(
    "difference_response_weight_backward(Tensor ref, Tensor a, Tensor b, Tensor grad, int kernel_size, bool each)"
    " -> Tensor",
    weight_reference,
    weight_adjoint,
    saves=("ref", "a", "b", "grad"),
    layout=weight_layout,
    backends=(cuda(), triton(), cpu()),
    samples=weight_samples,
    bytes=lambda ref, a, b, grad, kernel_size, each: 3 * ref.nbytes + grad.nbytes,
    autocast="lower",
    batched=(),
)
